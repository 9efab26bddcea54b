package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// A commander carries out what is to be written and what is to be read now,
// whoever asks: over MQTT, over the control socket, or the gateway itself, and
// answers each.
//
// One goroutine admits orders: it refuses, knows repetitions, and logs what is
// to be written, many at once, before anybody is told that it was taken. Each
// bus has a worker of its own, so that a slow one delays no other.
type commander struct {
	plant   func() *plant // as it is now: a reload changes it
	publish func(*broker.Message)
	log     *slog.Logger
	cfg     config.Commands
	now     func() devices.Stamp
	writes  *writelog.Log
	holds   *holds
	mutes   *mutes
	loss    *lossGuard
	setup   *starter

	// in takes what the broker hands over, which must not wait. Full, a
	// command is rejected: that takes a flood of hundreds while the medium
	// takes its time for one sync.
	in      chan *order
	changes chan func() // of a reload, between two batches of orders

	mu    sync.Mutex
	lanes map[string]*lane // by bus
	begin func(*lane)      // has a lane worked off; nil: run will
}

// acceptedAfter is how long a command may take before it is told that it was
// accepted: what is quicker needs but one answer.
const acceptedAfter = time.Second

// portRetry is how often a missing port is tried for a command that says until
// when it is valid.
const portRetry = 500 * time.Millisecond

// An orderKind says who gave an order.
type orderKind uint8

const (
	byCommand orderKind = iota // MQTT or the control socket
	byHold                     // `gateway hold`
	byLoss                     // nobody commanded any more
)

// An order is a command on its way to its answer.
type order struct {
	command mapping.Command
	err     error // what its reading said against it
	kind    orderKind
	by      string                // who gave it, for the log
	here    bool                  // somebody at the gateway waits for the answer
	latest  devices.Stamp         // may not be begun from then on; 0: no bound but its own
	ack     func(error)           // acknowledges its publisher; nil: nobody waits
	tell    func(*mapping.Result) // takes the answer; nil: it is published
	entry   *writelog.Entry       // of a write that was taken
	waits   error                 // what it waits to end; nil: nothing

	mu       sync.Mutex // so that nothing follows the answer
	finished bool
	timer    *time.Timer // of Accepted
}

func newCommander(p func() *plant, cfg config.Commands, writes *writelog.Log, publish func(*broker.Message), log *slog.Logger) *commander {
	c := &commander{
		plant: p, publish: publish, log: log, cfg: cfg, now: devices.Now, writes: writes,
		in: make(chan *order, 256), changes: make(chan func()), lanes: map[string]*lane{},
	}
	c.loss = newLossGuard(c)
	c.setup = newStarter(c)
	c.adopt()
	return c
}

// commandTopics are the filters of all commands to the gateway called name.
func commandTopics(name string) []string {
	return []string{name + "/+/+/set", name + "/+/_set", name + "/+/_get"}
}

// handle is given each message on a command topic by the broker.
func (c *commander) handle(msg *broker.Message, done func(error)) {
	command, err := c.plant().mapper.Command(msg)
	if errors.Is(err, mapping.ErrNoCommand) {
		done(nil)
		return
	}
	o := &order{command: command, err: err, by: command.From, ack: done}
	if !command.Get && !command.Retained && command.Deadline == 0 && command.Expires.IsZero() {
		o.latest = command.Received + devices.Stamp(c.cfg.MaxAge)
	}
	select {
	case c.in <- o:
	default:
		c.reject(o, errors.New("busy: too many commands at once; try again later"))
		done(nil)
	}
}

// submit has an order of this process carried out and waits for its answer.
func (c *commander) submit(ctx context.Context, o *order) (*mapping.Result, error) {
	answers := make(chan *mapping.Result, 1)
	o.here, o.tell = true, func(r *mapping.Result) { answers <- r }
	o.command.Received = c.now()
	select {
	case c.in <- o:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case r := <-answers:
		return r, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("not waited for the answer, the write may be done yet: %w", context.Cause(ctx))
	}
}

// run answers what the process before left unanswered and then works until
// ctx is done.
func (c *commander) run(ctx context.Context) error {
	c.recover()
	var parts sync.WaitGroup
	defer parts.Wait()
	c.mu.Lock()
	c.begin = func(l *lane) { parts.Go(func() { c.work(ctx, l) }) }
	for _, l := range c.lanes {
		c.begin(l)
	}
	c.mu.Unlock()
	parts.Go(func() { c.loss.run(ctx) })
	parts.Go(func() { c.holds.run(ctx) })
	parts.Go(func() { c.mutes.shelf.run(ctx) })
	for {
		select {
		case o := <-c.in:
			c.admit(c.batch(o))
		case change := <-c.changes:
			change()
		case <-ctx.Done():
			for _, o := range c.batch() {
				c.reject(o, errStopping)
				o.acknowledge()
			}
			return nil
		}
	}
}

var (
	errStopping = errors.New("not written: the gateway is stopping")
	errReloaded = errors.New("not written: the configuration of the device was changed meanwhile; send it again")
)

// change has fn called when no order is being admitted. It reports false if ctx
// was done before.
func (c *commander) change(ctx context.Context, fn func()) bool {
	done := make(chan struct{})
	select {
	case c.changes <- func() { defer close(done); fn() }:
		<-done
		return true
	case <-ctx.Done():
		return false
	}
}

// adopt takes over the buses and devices that there are now. What is known of
// a device stays while it is the same one.
func (c *commander) adopt() {
	p := c.plant()
	c.mu.Lock()
	for bus := range p.buses {
		if c.lanes[bus] == nil {
			c.lanes[bus] = newLane()
			if c.begin != nil {
				c.begin(c.lanes[bus])
			}
		}
	}
	c.mu.Unlock()
	c.loss.adopt(p.cfg.Devices)
	c.setup.adopt(p.cfg.Devices)
}

// leave ends what is under way on some buses: a write that was begun comes to
// its end, what waits is answered.
func (c *commander) leave(buses []string) {
	var ended []*lane
	c.mu.Lock()
	for _, bus := range buses {
		if l := c.lanes[bus]; l != nil {
			ended = append(ended, l)
			delete(c.lanes, bus)
			l.close()
		}
	}
	c.mu.Unlock()
	for _, l := range ended {
		<-l.ended
	}
}

// lane returns that of a bus, nil if there is none.
func (c *commander) lane(bus string) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lanes[bus]
}

// batch adds what else is there already, so that it shares one sync.
func (c *commander) batch(orders ...*order) []*order {
	for len(orders) < cap(c.in) {
		select {
		case o := <-c.in:
			orders = append(orders, o)
		default:
			return orders
		}
	}
	return orders
}

// admit refuses orders, answers repetitions, and takes the rest.
func (c *commander) admit(orders []*order) {
	var taken []*order
	for _, o := range orders {
		if slices.ContainsFunc(taken, o.repeats) { // what is taken is known as such
			c.take(taken)
			taken = nil
		}
		if c.sift(o, len(taken)) {
			taken = append(taken, o)
		} else {
			o.acknowledge()
		}
	}
	c.take(taken)
}

// repeats reports whether o has the id of p.
func (o *order) repeats(p *order) bool {
	return o.err == nil && o.command.ID != "" && o.command.ID == p.command.ID && o.command.Scope() == p.command.Scope()
}

// sift reports whether o is a write that is to be taken, while so many are
// about to be. Else it has dealt with it.
func (c *commander) sift(o *order, taken int) bool {
	err := o.err
	if err == nil {
		err = c.refusal(o)
	}
	if err != nil {
		c.reject(o, err)
		return false
	}
	if late, err := c.late(o); late {
		c.finish(o, &mapping.Result{State: mapping.Expired, Reason: "it came later than it was valid"})
		return false
	} else if err != nil {
		c.reject(o, err)
		return false
	}
	lane := c.lane(o.command.Device.Bus)
	if o.command.Get {
		if !lane.putGet(o) {
			c.reject(o, errLaneFull)
		}
		return false
	}
	if first, ok := c.writes.Seen(o.command.Scope(), o.command.ID); ok {
		c.repeat(o, &first)
		return false
	}
	o.entry = c.entryOf(o)
	err = writelog.Fits(o.entry)
	if err == nil && !lane.room(o, taken) {
		err = errLaneFull
	}
	if err != nil {
		o.entry = nil
		c.reject(o, err)
	}
	return err == nil
}

var errLaneFull = errors.New("busy: too many commands wait for this bus; try again later")

// refusal says why a well-formed command is not to be carried out.
func (c *commander) refusal(o *order) error {
	cmd := &o.command
	if strings.HasPrefix(cmd.From, "bridge:") && !cmd.Get && cmd.Deadline == 0 && cmd.Expires.IsZero() {
		return errors.New(`over a bridge a command must say until when it is valid: set the MQTT 5 message expiry, or "expires"`)
	}
	p := c.plant()
	if !p.current(cmd.Device) {
		return errReloaded
	}
	if _, err := p.bus(cmd.Device); err != nil {
		return err
	}
	if c.plant().readOnly && !cmd.Get {
		return errReadOnly
	}
	return c.heldBack(o)
}

// heldBack says which mute or hold keeps o from being carried out, nil for none.
func (c *commander) heldBack(o *order) error {
	if err := c.errMuted(o); err != nil {
		return err
	}
	if o.kind == byHold {
		return nil
	}
	for _, set := range o.command.Sets {
		if h, ok := c.holds.get(o.command.Device.ID, set.Point.Name); ok {
			return errors.New(c.holds.describe(&h))
		}
	}
	return nil
}

// late reports whether o came, or its turn, after its end. An error says that
// it cannot be told.
func (c *commander) late(o *order) (bool, error) {
	now := c.now()
	if o.latest != 0 && now >= o.latest {
		return true, nil
	}
	err := o.command.Live(now, c.plant().clock())
	if errors.Is(err, mapping.ErrExpired) {
		return true, nil
	}
	return false, err
}

// take logs orders, acknowledges them and gives them to their buses. What the
// gateway writes for safety is written also if it cannot be logged.
func (c *commander) take(orders []*order) {
	if len(orders) == 0 {
		return
	}
	entries := make([]*writelog.Entry, len(orders))
	for i, o := range orders {
		entries[i] = o.entry
	}
	err := c.writes.Take(entries...)
	for _, o := range orders {
		if err != nil {
			o.entry = nil
		}
		if err != nil && o.kind == byCommand {
			c.reject(o, fmt.Errorf("not written, for it cannot be logged, and after a crash nobody would know: %w; is the card full or failing?", err))
			o.acknowledge()
			continue
		}
		c.enqueue(o)
		o.acknowledge()
	}
}

func (c *commander) enqueue(o *order) {
	o.mu.Lock()
	o.timer = time.AfterFunc(acceptedAfter, func() { c.accepted(o) })
	o.mu.Unlock()
	if o.kind != byLoss {
		c.loss.heard(o.command.Device, o.command.Sets)
	}
	for _, old := range c.lane(o.command.Device.Bus).put(o) {
		c.finish(old, &mapping.Result{State: mapping.Rejected, Reason: "superseded by a later command before its turn came"})
	}
}

func (o *order) acknowledge() {
	if o.ack != nil {
		o.ack(nil)
	}
}

// accepted tells that there will be an answer.
func (c *commander) accepted(o *order) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.finished || o.tell != nil || o.kind == byLoss {
		return
	}
	c.answer(o, &mapping.Result{State: mapping.Accepted, Reason: "waits for the bus or the device; the result follows"})
}

// work carries out what is given to a lane until ctx is done or the lane closed.
func (c *commander) work(ctx context.Context, l *lane) {
	defer close(l.ended)
	ctx, stop := context.WithCancelCause(ctx)
	defer context.AfterFunc(l.open, func() { stop(errReloaded) })()
	for ctx.Err() == nil {
		if todo := l.next(ctx); todo != nil {
			todo(ctx, c, l)
		}
	}
	why := context.Cause(ctx)
	if !errors.Is(why, errReloaded) {
		why = errStopping
	}
	for _, o := range l.rest() {
		c.finish(o, &mapping.Result{State: mapping.Failed, Reason: why.Error()})
	}
}

// carryOut does what o says, unless it has become too late or a hold has come.
func (c *commander) carryOut(ctx context.Context, l *lane, o *order) {
	late, err := c.late(o)
	if err == nil {
		err = c.heldBack(o)
	}
	switch {
	case late:
		reason := "its turn came later than it was valid"
		if o.waits != nil {
			reason = "not written in time: " + o.waits.Error()
		}
		c.finish(o, &mapping.Result{State: mapping.Expired, Reason: reason})
	case err != nil:
		c.reject(o, err)
	case o.command.Get:
		c.get(ctx, o)
	default:
		c.set(ctx, l, o)
	}
}

// unsent reports whether err says that nothing was sent, for a port is missing
// or its bus is lent.
func unsent(err error) bool {
	return (errors.Is(err, devices.ErrPort) || errors.Is(err, devices.ErrLent)) && !errors.Is(err, modbus.ErrUnanswered) && !errors.Is(err, modbus.ErrReadBack)
}

// set writes the values in their order and stops at the first that fails. A
// command with an end of its own waits for a port that is missing, or a bus
// that is lent.
func (c *commander) set(ctx context.Context, l *lane, o *order) {
	cmd := &o.command
	polite, done := outlive(ctx, stopGrace)
	defer done()
	result := new(mapping.Result)
	for i, set := range cmd.Sets {
		done, err := c.plant().put(polite, cmd.Device, set)
		if i == 0 && unsent(err) && (cmd.Deadline != 0 || !cmd.Expires.IsZero()) {
			o.waits = err
			l.putBack(o)
			devices.Sleep(ctx, portRetry)
			return
		}
		result.Points = append(result.Points, done)
		result.State, result.Reason = worse(result, &done)
		if done.State != mapping.Verified && done.State != mapping.Written {
			for _, rest := range cmd.Sets[i+1:] {
				result.Points = append(result.Points, mapping.PointResult{
					Point: rest.Point, State: mapping.Rejected, Reason: "not written after " + set.Point.Name,
				})
			}
			break
		}
	}
	c.finish(o, result)
}

// stopGrace is how long a write that was begun may take when the gateway stops:
// cut off, nobody would know what became of it.
const stopGrace = 3 * time.Second

// outlive returns a context that ends so long after ctx.
func outlive(ctx context.Context, grace time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})
	return longer, func() { stop(); cancel(nil) }
}

// worse returns the state and reason that tell of both: a set of points is
// verified only if all of them are.
func worse(all *mapping.Result, next *mapping.PointResult) (mapping.ResultState, string) {
	if all.State == 0 || all.State == mapping.Verified || next.State > mapping.Verified {
		return next.State, next.Reason
	}
	return all.State, all.Reason
}

// get reads now. The values go where readings always go, and into the answer.
func (c *commander) get(ctx context.Context, o *order) {
	cmd := &o.command
	points := cmd.Points
	if len(points) == 0 {
		points = cmd.Device.All()
	}
	b, _, err := c.plant().get(ctx, cmd.Device, seams(cmd.Device.Needs(points)))
	if err != nil {
		c.finish(o, &mapping.Result{State: mapping.Failed, Reason: devices.Cause(err)})
		return
	}
	result := &mapping.Result{State: mapping.Verified}
	for _, now := range c.plant().mapper.AppendCurrent(nil, b) {
		one := mapping.PointResult{Point: now.Point, State: mapping.Verified, New: now.Value}
		if now.Cause != "" {
			one.State, one.Reason = mapping.Failed, now.Cause
			result.State, result.Reason = mapping.Failed, now.Point.Name+": "+now.Cause
		}
		result.Points = append(result.Points, one)
	}
	c.plant().pass(b)
	c.finish(o, result)
}

// reject answers what is not to be carried out.
func (c *commander) reject(o *order, err error) {
	c.log.Debug("command rejected", "device", deviceOf(&o.command), "from", o.by, "reason", err)
	c.finish(o, &mapping.Result{State: mapping.Rejected, Reason: err.Error()})
}

func deviceOf(cmd *mapping.Command) string {
	if cmd.Device == nil {
		return ""
	}
	return cmd.Device.ID
}

// finish answers an order, after it was noted in the log, and audits what it
// wrote.
func (c *commander) finish(o *order, r *mapping.Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.finished = true
	if o.timer != nil {
		o.timer.Stop()
	}
	r.Stamp = c.now()
	if o.entry == nil {
		c.answer(o, r)
		return
	}
	points := pointsOf(o.command.Sets, r)
	c.writes.Finish(o.entry.Seq, logged(o.command.Sets, points), r.State.String(), r.Reason)
	if len(points) == 1 && !strings.HasSuffix(o.entry.Scope, "/_set") {
		r.Old, r.New, r.Points = points[0].Old, points[0].New, nil
	}
	c.answer(o, r)
	c.writes.Told(o.entry.Seq)
	c.audit(o.command.Device, o.entry, o.command.Sets, points, r.Stamp)
}

// pointsOf returns what became of each write: what r says of it, else the same
// as of all.
func pointsOf(sets []mapping.Set, r *mapping.Result) []mapping.PointResult {
	if len(r.Points) > 0 {
		return r.Points
	}
	points := make([]mapping.PointResult, len(sets))
	for i, s := range sets {
		points[i] = mapping.PointResult{Point: s.Point, State: r.State, Reason: r.Reason, Old: r.Old, New: r.New}
	}
	return points
}

// answer gives r to who waits for it.
func (c *commander) answer(o *order, r *mapping.Result) {
	r.Reply, r.ID = o.command.Reply, o.command.ID
	if o.kind == byLoss {
		r.By = lossUser
	}
	if o.tell != nil && r.State != mapping.Accepted {
		o.tell(r)
	}
	if r.Reply.Topic != "" {
		c.send(r)
	}
}

func (c *commander) send(r *mapping.Result) {
	if r.Stamp == 0 {
		r.Stamp = c.now()
	}
	for _, msg := range mapping.AppendResult(nil, r, c.plant().clock()) {
		c.publish(&msg)
	}
}

// write carries out a request over the control socket.
func (c *commander) write(ctx context.Context, req writeRequest, by string) (writeResult, error) {
	command, result, err := c.plant().prepare(req)
	if err != nil || result.State != "" {
		return result, err
	}
	return c.writeAs(ctx, &order{command: command, by: by}, result)
}

func (c *commander) writeAs(ctx context.Context, o *order, result writeResult) (writeResult, error) {
	r, err := c.submit(ctx, o)
	if err != nil {
		return result, err
	}
	result.take(r.State, r.Reason, r.New)
	return result, nil
}

// retained carries out the commands that clients left to be retained.
func (c *commander) retained(msgs []*broker.Message) {
	for _, msg := range msgs {
		if !c.cfg.Retained {
			continue
		}
		c.handle(msg, func(error) {})
	}
	if len(msgs) > 0 && !c.cfg.Retained {
		c.log.Warn("retained commands are not carried out; delete them, or set retained = true in [commands]", "n", len(msgs), "topic", msgs[0].Topic)
	}
}

// valueOf reads a value as the log keeps it, null if it is none of p any more.
func valueOf(p *mapping.Point, text json.RawMessage) mapping.Value {
	if len(text) == 0 {
		return mapping.Value{}
	}
	v, err := mapping.ParseValue(p, text)
	if err != nil {
		return mapping.Value{}
	}
	return v
}
