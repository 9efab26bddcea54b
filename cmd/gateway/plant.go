package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/capture"
	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A plant is the buses and devices as commands use them: behind the pollers
// of a running gateway, or opened for one command. Its methods may be called
// from any goroutine.
type plant struct {
	cfg      *config.Config
	mapper   *mapping.Mapper // all devices; only what reads nothing that changes
	buses    map[string]*plantBus
	clock    func() broker.Clock
	readOnly bool // nothing is written
	// seen takes over each batch that was read on demand, to publish it.
	seen func(*devices.Batch)
	// last returns the value of the last reading of a point, null for none; nil
	// where nothing is polled.
	last func(*mapping.Device, *mapping.Point) mapping.Value
}

// A plantBus is one bus that can be asked.
type plantBus struct {
	line devices.Line // planned with only inside a query; nil on a bus that speaks by itself
	do   func(context.Context, devices.Query, *devices.Batch) error
	lend func(ctx context.Context, to string) error // devices.Poller.Lend; nil: only this command uses it
	tap  *capture.Tap                               // by which its port is recorded; nil: it cannot be
}

// askTimeout bounds one request of a command, waiting for its turn included.
const askTimeout = 20 * time.Second

// A lateQuery is planned when its turn on the bus has come, since only the
// owner of a bus may plan with its line.
type lateQuery struct {
	name   string
	points []*devices.Point
	plan   func() ([]devices.Query, error)
	placed func() // after all; nil: nobody wants to know where the points are
}

func (q *lateQuery) String() string           { return q.name }
func (q *lateQuery) Points() []*devices.Point { return q.points }

func (q *lateQuery) Do(ctx context.Context, b *devices.Batch) error {
	queries, err := q.plan()
	if err != nil {
		return err
	}
	for _, query := range queries {
		if err := query.Do(ctx, b); err != nil {
			return err
		}
	}
	if q.placed != nil {
		q.placed()
	}
	return nil
}

// modelPlaces are where points were found that have no address of their own.
type modelPlaces map[*devices.Point]modbus.Place

// of says where a point is, with its address where that was found.
func (w modelPlaces) of(p *mapping.Point) string {
	at, ok := w[p.Point]
	switch {
	case !ok:
		return p.Source.String()
	case at.Factor != nil:
		return fmt.Sprintf("%v, factor in %d (model %d)", at.At, at.Factor.Address, at.Model.ID)
	}
	return fmt.Sprintf("%v (model %d)", at.At, at.Model.ID)
}

// readQuery reads points of dev.
func (p *plantBus) readQuery(dev *devices.Device, points []*devices.Point) *lateQuery {
	return &lateQuery{
		name:   fmt.Sprintf("read of %d points of device %s", len(points), dev.ID),
		points: points,
		plan:   func() ([]devices.Query, error) { return p.line.Plan(dev, points) },
	}
}

// writeQuery writes raw to a point of dev and reads it back if it can be.
func (p *plantBus) writeQuery(dev *devices.Device, point *mapping.Point, raw []byte) devices.Query {
	return &lateQuery{
		name:   fmt.Sprintf("write to %s of device %s", point.Name, dev.ID),
		points: []*devices.Point{point.Point},
		plan: func() ([]devices.Query, error) {
			q, err := p.line.Write(dev, point.Point, raw, !point.Write.NoVerify)
			return []devices.Query{q}, err
		},
	}
}

// current reports whether dev is as the configuration has it now.
func (p *plant) current(dev *mapping.Device) bool { return slices.Contains(p.cfg.Devices, dev) }

// bus returns the bus of a device.
func (p *plant) bus(dev *mapping.Device) (*plantBus, error) {
	b := p.buses[dev.Bus]
	if b == nil || b.line == nil {
		return nil, fmt.Errorf("device %s: bus %s speaks by itself and cannot be asked; see `gateway status`, or subscribe to its topics", dev.ID, dev.Bus)
	}
	return b, nil
}

// get reads points of dev now, and says where those in models are.
func (p *plant) get(ctx context.Context, dev *mapping.Device, points []*devices.Point) (*devices.Batch, modelPlaces, error) {
	bus, err := p.bus(dev)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var found modelPlaces
	q := bus.readQuery(dev.Device, points)
	if line, ok := bus.line.(*modbus.Line); ok {
		q.placed = func() { found = line.Locate(dev.Device, points) }
	}
	b := devices.NewBatch(dev.Device)
	if err := bus.do(ctx, q, b); err != nil && len(b.Readings) == 0 {
		b.Release()
		return nil, nil, err
	}
	return b, found, nil
}

// pass hands on what was read on demand, so that it is published, too.
func (p *plant) pass(b *devices.Batch) {
	good := func(r devices.Reading) bool { return r.Err == nil }
	if !slices.ContainsFunc(b.Readings, good) {
		b.Release()
		return
	}
	b.State = devices.Online
	p.seen(b)
}

// errReadOnly is why nothing is written by `run --read-only`.
var errReadOnly = errors.New("the gateway runs with --read-only")

// put writes one value and says how it went. It never repeats a write: one
// whose answer was lost may have been carried out, and is Unknown. err is what
// the bus said.
func (p *plant) put(ctx context.Context, dev *mapping.Device, set mapping.Set) (result mapping.PointResult, err error) {
	result = mapping.PointResult{Point: set.Point, State: mapping.Rejected}
	bus, err := p.bus(dev)
	if p.readOnly {
		err = errReadOnly
	}
	if err != nil {
		result.Reason = err.Error()
		return result, err
	}
	if p.last != nil {
		result.Old = p.last(dev, set.Point)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	b := devices.NewBatch(dev.Device)
	defer p.pass(b)
	err = bus.do(ctx, bus.writeQuery(dev.Device, set.Point, set.Raw), b)
	result.State, result.Reason = judge(err, b, set)
	if dev.WrittenOnly() && result.State == mapping.Written {
		result.Reason = "sent to all devices on the line, none of which answers"
	}
	if result.State <= mapping.Verified {
		result.New = set.Value
	}
	if len(b.Readings) > 0 && b.Readings[0].Err == nil {
		if v, err := mapping.Decode(set.Point, b.Readings[0].Raw); err == nil {
			result.New = v
		}
	}
	return result, err
}

// judge says what became of a write from the query's error and what it read
// back.
func judge(err error, b *devices.Batch, set mapping.Set) (mapping.ResultState, string) {
	if len(b.Readings) > 0 && b.Readings[0].Err != nil {
		err = b.Readings[0].Err
	}
	switch {
	case errors.Is(err, modbus.ErrReadBack):
		return mapping.Written, "not verified: " + devices.Cause(err)
	case errors.Is(err, modbus.ErrUnanswered):
		return mapping.Unknown, devices.Cause(err) + ": the device may have carried it out"
	case errors.As(err, new(*modbus.Exception)):
		return mapping.Failed, devices.Cause(err)
	case err != nil:
		return mapping.Failed, err.Error()
	case len(b.Readings) == 0:
		return mapping.Written, ""
	case !stands(set, b.Readings[0].Raw):
		return mapping.Failed, "the device answered that it wrote, but holds " + meaning(set.Point, b.Readings[0].Raw) + " now: it may limit or round values by itself"
	}
	return mapping.Verified, ""
}

// floatNoise is how far a float may be off that is what was written: devices
// that count in 32 bits, or in another unit, give the last digit back
// differently.
const floatNoise = 1e-6

// stands reports whether raw, read back, is what set wrote.
func stands(set mapping.Set, raw []byte) bool {
	if bytes.Equal(raw, set.Raw) {
		return true
	}
	want, err := mapping.Decode(set.Point, set.Raw)
	if err != nil {
		return false
	}
	got, err := mapping.Decode(set.Point, raw)
	if err != nil {
		return false
	}
	if t := set.Point.Type; t != mapping.F16 && t != mapping.F32 && t != mapping.F64 {
		return want.Equal(got)
	}
	a, _ := want.Float64()
	b, _ := got.Float64()
	return math.Abs(a-b) <= floatNoise*max(math.Abs(a), math.Abs(b))
}

// meaning is what raw says, for people.
func meaning(p *mapping.Point, raw []byte) string {
	v, err := mapping.Decode(p, raw)
	if err != nil {
		return registers(raw) + " (" + devices.Cause(err) + ")"
	}
	return strings.TrimSpace(v.String() + " " + p.Unit)
}

// A readRequest says what to read: `main`, `main.power`, or `rs485/7` with
// Source `input:52` and Type `f32`.
type readRequest struct {
	Target string `json:"target"`
	Source string `json:"source,omitempty"`
	Type   string `json:"type,omitempty"`
	Order  string `json:"order,omitempty"`
	// Timeout is how long to wait for the answer; 0: as long as the bus does.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Hints asks what would make absurd values right, which may take some
	// more requests.
	Hints bool `json:"hints,omitempty"`
}

// A pointResult is one point as it was just read.
type pointResult struct {
	Device string          `json:"device"`
	Point  string          `json:"point"`
	Source string          `json:"source"`
	Raw    string          `json:"raw,omitempty"` // registers in hexadecimal, as on the wire
	Value  json.RawMessage `json:"value"`
	Unit   string          `json:"unit,omitempty"`
	Error  string          `json:"error,omitempty"`
	Detail string          `json:"detail,omitempty"` // the error in full
	Hint   string          `json:"hint,omitempty"`   // what would make an absurd value plausible
	Time   time.Time       `json:"time"`
}

func (p *plant) read(ctx context.Context, req readRequest) ([]pointResult, error) {
	if req.Source == identitySource {
		return p.identify(ctx, req)
	}
	dev, points, err := p.target(req)
	if err != nil {
		return nil, err
	}
	b, found, err := p.get(ctx, dev, seams(dev.Needs(points)))
	if err != nil {
		return nil, err
	}
	defer p.pass(b)
	results := make([]pointResult, 0, len(points))
	clock := p.clock()
	for _, point := range points {
		if point.Program != nil {
			results = append(results, computedResult(dev, point, b.Readings, clock))
			continue
		}
		i := slices.IndexFunc(b.Readings, func(r devices.Reading) bool { return r.Point == point.Point })
		if i < 0 || point.Hidden {
			continue // not asked after the device had fallen silent
		}
		result := pointResultOf(dev, point, &b.Readings[i], b.Readings, clock)
		result.Source = found.of(point)
		results = append(results, result)
	}
	if req.Hints && req.Source == "" {
		p.addHints(ctx, dev, results, b)
	}
	return results, nil
}

func seams(points []*mapping.Point) []*devices.Point {
	list := make([]*devices.Point, len(points))
	for i, point := range points {
		list[i] = point.Point
	}
	return list
}

// computedResult computes point from readings of one moment.
func computedResult(dev *mapping.Device, point *mapping.Point, all []devices.Reading, clock broker.Clock) pointResult {
	now := dev.Now(point, all)
	return pointResult{
		Device: dev.ID, Point: point.Name, Source: point.Source.String(), Unit: point.Unit,
		Value: now.Value.AppendJSON(nil), Error: now.Cause, Detail: cmp.Or(now.Detail, now.Cause), Time: clock.Wall(int64(now.At)),
	}
}

// pointResultOf decodes r, one of all readings of the same moment.
func pointResultOf(dev *mapping.Device, point *mapping.Point, r *devices.Reading, all []devices.Reading, clock broker.Clock) pointResult {
	result := pointResult{
		Device: dev.ID, Point: point.Name, Source: point.Source.String(), Unit: point.Unit,
		Value: json.RawMessage("null"), Time: clock.Wall(int64(r.At)),
	}
	err := r.Err
	if err == nil {
		result.Raw = registers(r.Raw)
		var v mapping.Value
		if v, err = mapping.DecodeWith(point, r.Raw, all); err == nil {
			result.Value = v.AppendJSON(nil)
		}
	}
	if err != nil {
		result.Error, result.Detail = devices.Cause(err), err.Error()
	}
	return result
}

// registers writes raw as an electrician reads it: "4366 199A".
func registers(raw []byte) string {
	if len(raw)%2 != 0 {
		return strings.ToUpper(hex.EncodeToString(raw))
	}
	var words []string
	for i := 0; i < len(raw); i += 2 {
		words = append(words, strings.ToUpper(hex.EncodeToString(raw[i:i+2])))
	}
	return strings.Join(words, " ")
}

// parseRegisters reads what registers wrote.
func parseRegisters(text string) ([]byte, error) {
	return hex.DecodeString(strings.ReplaceAll(text, " ", ""))
}

// target finds what a request names.
func (p *plant) target(req readRequest) (*mapping.Device, []*mapping.Point, error) {
	if req.Source != "" {
		return p.rawTarget(req)
	}
	dev, point, err := p.find(req.Target)
	if err != nil {
		return nil, nil, err
	}
	if point == nil {
		return dev, dev.All(), nil
	}
	return dev, []*mapping.Point{point}, nil
}

// find finds DEVICE or DEVICE.POINT; either may be the table key or the name.
func (p *plant) find(target string) (*mapping.Device, *mapping.Point, error) {
	device, name, dotted := target, "", false
	dev := p.device(device)
	if dev == nil {
		device, name, dotted = strings.Cut(target, ".")
		dev = p.device(device)
	}
	if dev == nil {
		return nil, nil, usageError("there is no device %q; there are: %s", device, strings.Join(deviceIDs(p.cfg.Devices), ", "))
	}
	if !dotted {
		return dev, nil, nil
	}
	if point := dev.Point(name); point != nil {
		return dev, point, nil
	}
	return nil, nil, usageError("device %s has no point %q; it has: %s", dev.ID, name, strings.Join(pointNames(dev), ", "))
}

func (p *plant) device(name string) *mapping.Device {
	i := slices.IndexFunc(p.cfg.Devices, func(d *mapping.Device) bool { return d.ID == name || d.Name == name })
	if i < 0 {
		return nil
	}
	return p.cfg.Devices[i]
}

func deviceIDs(devs []*mapping.Device) (ids []string) {
	for _, d := range devs {
		ids = append(ids, d.ID)
	}
	return ids
}

func pointNames(dev *mapping.Device) (names []string) {
	for _, point := range dev.All() {
		if !point.Hidden {
			names = append(names, point.Name)
		}
	}
	return names
}

// rawUnit makes a device for `BUS/UNIT`.
func (p *plant) rawUnit(req readRequest) (*mapping.Device, error) {
	cut := strings.LastIndexByte(req.Target, '/')
	if cut < 0 || p.buses[req.Target[:cut]] == nil {
		return nil, usageError("%q names no unit: write BUS/UNIT, such as rs485/7", req.Target)
	}
	unit, err := strconv.ParseUint(req.Target[cut+1:], 10, 8)
	if err != nil {
		return nil, usageError("%q: the unit id is a number from 0 to 255", req.Target)
	}
	return &mapping.Device{Device: &devices.Device{
		ID: req.Target, Name: req.Target, Bus: req.Target[:cut], Unit: modbus.Unit{ID: byte(unit), Timeout: req.Timeout},
	}}, nil
}

// rawTarget makes a device for `BUS/UNIT TABLE:ADDRESS[-END] [TYPE]`.
func (p *plant) rawTarget(req readRequest) (*mapping.Device, []*mapping.Point, error) {
	dev, err := p.rawUnit(req)
	if err != nil {
		return nil, nil, err
	}
	order, err := mapping.ParseOrder(cmp.Or(req.Order, "ABCD"))
	if err != nil {
		return nil, nil, usageError("--order: %w", err)
	}
	if address, ok := strings.CutPrefix(req.Source, "fifo:"); ok {
		err := addQueue(dev, address, req.Type, order)
		return dev, dev.Points, err
	}
	registers, typ, length, err := parseSource(req.Source, req.Type)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range registers {
		point := &devices.Point{Name: r.String(), Source: r}
		dev.Device.Points = append(dev.Device.Points, point)
		dev.Points = append(dev.Points, &mapping.Point{Point: point, Type: typ, Length: length, Order: order})
	}
	return dev, dev.Points, nil
}

// addQueue gives dev one point, the queue at address.
func addQueue(dev *mapping.Device, address, typ string, order mapping.Order) error {
	n, err := strconv.ParseUint(address, 0, 16)
	if err != nil {
		return usageError("fifo:%s: the address is a number from 0 to 65535", address)
	}
	t, length, err := mapping.ParseType(cmp.Or(typ, "u16"))
	if err != nil {
		return usageError("%w", err)
	}
	queue := modbus.Queue{Address: uint16(n)}
	point := &devices.Point{Name: queue.String(), Source: queue}
	dev.Device.Points = append(dev.Device.Points, point)
	dev.Points = append(dev.Points, &mapping.Point{Point: point, Type: t, Length: length, Order: order, List: true})
	return nil
}

// parseSource reads `input:52`, `holding:100-120` or a reference number like
// 40101, with the type of each value in it.
func parseSource(source, typ string) ([]modbus.Register, mapping.Type, int, error) {
	first, last, err := parseSpan(source)
	if err != nil {
		return nil, 0, 0, err
	}
	if first.Table.Bits() {
		typ = cmp.Or(typ, "bool")
	}
	t, length, err := mapping.ParseType(cmp.Or(typ, "u16"))
	if err != nil {
		return nil, 0, 0, usageError("%w", err)
	}
	count := max(1, t.Registers(length))
	var list []modbus.Register
	for address := int(first.Address); address <= last && address+count <= 1<<16; address += count {
		list = append(list, modbus.Register{Table: first.Table, Address: uint16(address), Count: uint16(count)})
	}
	if len(list) == 0 {
		return nil, 0, 0, usageError("%s: addresses end at 65535", source)
	}
	return list, t, length, nil
}

func parseSpan(source string) (first modbus.Register, last int, err error) {
	table, span, ok := strings.Cut(source, ":")
	if !ok {
		if first, err = modbus.ParseRef(source); err != nil {
			return first, 0, usageError("%q is neither TABLE:ADDRESS, such as input:52, nor a %w", source, err)
		}
		return first, int(first.Address), nil
	}
	tables := map[string]modbus.Table{"coil": modbus.Coil, "discrete": modbus.Discrete, "input": modbus.Input, "holding": modbus.Holding}
	if tables[table] == 0 {
		return first, 0, usageError("%q is not a register table: coil, discrete, input or holding", table)
	}
	from, to, ranged := strings.Cut(span, "-")
	address, err := strconv.ParseUint(from, 0, 16)
	if err != nil {
		return first, 0, usageError("%q: the address is a number from 0 to 65535", source)
	}
	last = int(address)
	if ranged {
		end, err := strconv.ParseUint(to, 0, 16)
		if err != nil || int(end) < last {
			return first, 0, usageError("%q: the range ends with a number from %d to 65535", source, address)
		}
		last = int(end)
	}
	return modbus.Register{Table: tables[table], Address: uint16(address)}, last, nil
}

// A writeRequest says what to write where.
type writeRequest struct {
	Target string `json:"target"` // DEVICE.POINT
	Value  string `json:"value"`
}

// A writeResult is the answer to a write.
type writeResult struct {
	Device string          `json:"device"`
	Point  string          `json:"point"`
	State  string          `json:"state"`
	Reason string          `json:"reason,omitempty"`
	Value  json.RawMessage `json:"value"` // what the device holds now, or was told to
	Unit   string          `json:"unit,omitempty"`
}

func (p *plant) write(ctx context.Context, req writeRequest) (writeResult, error) {
	command, result, err := p.prepare(req)
	if err != nil || result.State != "" {
		return result, err
	}
	done, _ := p.put(ctx, command.Device, command.Sets[0])
	result.take(done.State, done.Reason, done.New)
	return result, nil
}

// prepare makes a command of a request. A result with a state says that it is
// none, and why.
func (p *plant) prepare(req writeRequest) (mapping.Command, writeResult, error) {
	dev, point, err := p.findPoint(req.Target)
	if err != nil {
		return mapping.Command{}, writeResult{}, err
	}
	result := writeResult{Device: dev.ID, Point: point.Name, Unit: point.Unit, Value: json.RawMessage("null")}
	command, err := p.mapper.Write(dev.Name, point.Name, []byte(req.Value))
	if err != nil {
		result.State, result.Reason = mapping.Rejected.String(), err.Error()
	}
	return command, result, nil
}

func (r *writeResult) take(state mapping.ResultState, reason string, now mapping.Value) {
	r.State, r.Reason, r.Value = state.String(), reason, now.AppendJSON(nil)
}

// findPoint finds DEVICE.POINT.
func (p *plant) findPoint(target string) (*mapping.Device, *mapping.Point, error) {
	dev, point, err := p.find(target)
	if err == nil && point == nil {
		err = usageError("%q names a device: write DEVICE.POINT", target)
	}
	return dev, point, err
}
