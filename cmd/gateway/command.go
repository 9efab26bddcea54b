package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/mapping"
)

// A commander carries out what arrives on the set and get topics and answers
// each. A bus has a worker of its own, so that a slow one delays no other.
type commander struct {
	plant   *plant
	publish func(*broker.Message)
	log     *slog.Logger

	// in takes what the broker hands over, which must not wait. Full, a
	// command is dropped unanswered and logged; the dispatcher never waits
	// for anything, so that takes a flood of hundreds at one moment.
	in      chan order
	workers map[string]chan order // by bus; full: the command is rejected as busy
}

// An order is a command with what its reading said against it.
type order struct {
	command mapping.Command
	err     error
}

func newCommander(p *plant, publish func(*broker.Message), log *slog.Logger) *commander {
	c := &commander{plant: p, publish: publish, log: log, in: make(chan order, 256), workers: map[string]chan order{}}
	for bus := range p.buses {
		c.workers[bus] = make(chan order, 32)
	}
	return c
}

// topics are the filters of all commands to the gateway called name.
func (c *commander) topics(name string) []string {
	return []string{name + "/+/+/set", name + "/+/_set", name + "/+/_get"}
}

// handle is given each message on a command topic by the broker.
func (c *commander) handle(msg *broker.Message) {
	command, err := c.plant.mapper.Command(msg)
	if errors.Is(err, mapping.ErrNoCommand) {
		return
	}
	select {
	case c.in <- order{command, err}:
	default:
		c.log.Error("command dropped: too many at once", "topic", msg.Topic, "from", msg.From)
	}
}

// run works until ctx is done.
func (c *commander) run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	for _, queue := range c.workers {
		workers.Go(func() { c.work(ctx, queue) })
	}
	for {
		select {
		case o := <-c.in:
			c.dispatch(o)
		case <-ctx.Done():
			return nil
		}
	}
}

// dispatch refuses a command or gives it to its bus.
func (c *commander) dispatch(o order) {
	if o.err == nil {
		o.err = c.refusal(&o.command)
	}
	if o.err != nil {
		c.answer(&o.command, mapping.Rejected, o.err.Error())
		return
	}
	select {
	case c.workers[o.command.Device.Bus] <- o:
	default:
		c.answer(&o.command, mapping.Rejected, "busy: too many commands wait for this bus; try again later")
	}
}

// refusal says why a well-formed command is not to be carried out.
func (c *commander) refusal(cmd *mapping.Command) error {
	if strings.HasPrefix(cmd.From, "bridge:") && !cmd.Get && cmd.Deadline == 0 && cmd.Expires.IsZero() {
		return errors.New(`over a bridge a command must say until when it is valid: set the MQTT 5 message expiry, or "expires"`)
	}
	if _, err := c.plant.bus(cmd.Device); err != nil {
		return err
	}
	return nil
}

func (c *commander) work(ctx context.Context, queue <-chan order) {
	for {
		select {
		case o := <-queue:
			c.carryOut(ctx, &o.command)
		case <-ctx.Done():
			return
		}
	}
}

func (c *commander) carryOut(ctx context.Context, cmd *mapping.Command) {
	switch err := cmd.Live(devices.Now(), c.plant.clock()); {
	case errors.Is(err, mapping.ErrExpired):
		c.answer(cmd, mapping.Expired, "it waited longer than it was valid")
	case err != nil:
		c.answer(cmd, mapping.Rejected, err.Error())
	case cmd.Get:
		c.get(ctx, cmd)
	default:
		c.set(ctx, cmd)
	}
}

// set writes the values in their order and stops at the first that fails.
func (c *commander) set(ctx context.Context, cmd *mapping.Command) {
	result := mapping.Result{Reply: cmd.Reply, ID: cmd.ID}
	for i, set := range cmd.Sets {
		done := c.plant.put(ctx, cmd.Device, set)
		c.log.Info("write by command", "device", cmd.Device.ID, "point", set.Point.Name,
			"value", set.Value.String(), "state", done.State.String(), "reason", done.Reason, "from", cmd.From)
		result.Points = append(result.Points, done)
		result.State, result.Reason = worse(&result, &done)
		if done.State != mapping.Verified && done.State != mapping.Written {
			for _, rest := range cmd.Sets[i+1:] {
				result.Points = append(result.Points, mapping.PointResult{
					Point: rest.Point, State: mapping.Rejected, Reason: "not written after " + set.Point.Name,
				})
			}
			break
		}
	}
	if len(result.Points) == 1 {
		only := result.Points[0]
		result.Old, result.New, result.Points = only.Old, only.New, nil
	}
	c.send(&result)
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
func (c *commander) get(ctx context.Context, cmd *mapping.Command) {
	points := cmd.Points
	if len(points) == 0 {
		points = cmd.Device.All()
	}
	b, err := c.plant.get(ctx, cmd.Device, seams(cmd.Device.Needs(points)))
	if err != nil {
		c.answer(cmd, mapping.Failed, devices.Cause(err))
		return
	}
	result := mapping.Result{Reply: cmd.Reply, ID: cmd.ID, State: mapping.Verified}
	for _, now := range c.plant.mapper.AppendCurrent(nil, b) {
		one := mapping.PointResult{Point: now.Point, State: mapping.Verified, New: now.Value}
		if now.Cause != "" {
			one.State, one.Reason = mapping.Failed, now.Cause
			result.State, result.Reason = mapping.Failed, now.Point.Name+": "+now.Cause
		}
		result.Points = append(result.Points, one)
	}
	c.plant.pass(b)
	c.send(&result)
}

func (c *commander) answer(cmd *mapping.Command, state mapping.ResultState, reason string) {
	c.send(&mapping.Result{Reply: cmd.Reply, ID: cmd.ID, State: state, Reason: reason})
}

func (c *commander) send(r *mapping.Result) {
	r.Stamp = devices.Now()
	for _, msg := range mapping.AppendResult(nil, r, c.plant.clock()) {
		c.publish(&msg)
	}
}
