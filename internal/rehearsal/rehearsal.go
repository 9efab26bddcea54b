// Package rehearsal tries profiles without their devices: a simulated device
// holds known values in the registers, fields or bytes that a profile names,
// and the gateway's own line, planner, reader and mapping read them back.
//
// # What that shows, and what it does not
//
// A profile whose rehearsal is right can be planned and read with its limits
// and quirks, and each of its points has a place, a type and an order that go
// together. Registers that the profile does not name are refused, so that a
// request over a hole fails unless the profile allows gaps. That the addresses
// and scales are those of the real device no rehearsal can show; Doubts finds
// those that hardly can be.
//
// The clock of a simulated Modbus device stands still, so that what it holds
// after it was read is what it held then; of devices that speak by themselves
// what they said is remembered. Delays and pauses that a profile asks for are
// left out.
package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A Result is how one profile did.
type Result struct {
	Profile  *config.Profile
	Requests int // that read all of its points once; 0 where devices speak by themselves
	Values   []Value
}

// A Value is one point.
type Value struct {
	Point *mapping.Point
	Raw   []byte        // as it travelled; nil if it was not read
	Held  mapping.Value // what the simulated device holds
	Read  mapping.Value // what was made of Raw
	Err   error         // why there is none
}

// Right reports whether the point was read as it is held, and has a value.
func (v *Value) Right() bool { return v.Err == nil && !v.Read.IsNull() && v.Read.Equal(v.Held) }

// Wrong returns the values that are not right.
func (r *Result) Wrong() []Value {
	return slices.DeleteFunc(slices.Clone(r.Values), func(v Value) bool { return v.Right() })
}

// maxUnits is how many devices one bus can have.
const maxUnits = 247

// Run rehearses profiles, those of Modbus devices on one plant. An error is
// that of the plant; what is wrong with a profile is in its result.
func Run(ctx context.Context, profiles []*config.Profile) ([]Result, error) {
	results := make([]Result, len(profiles))
	var rows []*row
	for i, p := range profiles {
		results[i].Profile = p
		if p.Bus.Protocol != config.Modbus {
			if err := hear(ctx, &results[i]); err != nil {
				return nil, fmt.Errorf("profile %s: %w", p.Name, err)
			}
			continue
		}
		rows = append(rows, &row{result: &results[i]})
	}
	for chunk := range slices.Chunk(rows, maxUnits) {
		if err := ask(ctx, chunk); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// A row is a profile whose device is on a bus of its own, by how it bears holes.
type row struct {
	result *Result
	dev    *mapping.Device
	unit   modbus.Unit
	bus    string
}

// ask reads the devices of Modbus profiles.
func ask(ctx context.Context, rows []*row) error {
	buses := []simulator.Bus{{Name: "strict"}, {Name: "lenient", Lenient: true}}
	for i, r := range rows {
		p := r.result.Profile
		r.unit = p.Device.Unit.(modbus.Unit)
		r.unit.ID, r.unit.Pause = byte(i+1), 0
		at := 0
		if r.unit.Gaps || r.unit.Quirks != nil && len(r.unit.Quirks.Blocks)+len(r.unit.Quirks.FromZero) > 0 {
			at = 1 // it is read over holes
		}
		r.bus = buses[at].Name
		r.dev = standIn(p.Device, fmt.Sprintf("p%d", i), r.unit, 0)
		buses[at].Devices = append(buses[at].Devices, withFillers(r.dev, r.unit.Quirks))
	}
	buses = slices.DeleteFunc(buses, func(b simulator.Bus) bool { return len(b.Devices) == 0 })
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	return onPlant(ctx, buses, func() time.Time { return noon }, func(sim *simulator.Simulator) error {
		for _, r := range rows {
			if err := r.read(ctx, sim); err != nil {
				return fmt.Errorf("profile %s: %w", r.result.Profile.Name, err)
			}
		}
		return nil
	})
}

// standIn returns dev with another name and unit, and where every is not 0
// points that are wanted that often.
func standIn(dev *mapping.Device, id string, unit fmt.Stringer, every time.Duration) *mapping.Device {
	d := &mapping.Device{Device: &devices.Device{ID: id, Name: id, Bus: dev.Bus, Unit: unit}, Profile: dev.Profile}
	for _, p := range dev.Points {
		if every > 0 {
			copied, point := *p, *p.Point
			point.Every = every
			copied.Point, p = &point, &copied
		}
		d.Points = append(d.Points, p)
		d.Device.Points = append(d.Device.Points, p.Point)
	}
	return d
}

// withFillers returns a device that also has the registers at which requests
// begin and end because of a quirk, though no point lies there.
func withFillers(dev *mapping.Device, q *modbus.Quirks) *mapping.Device {
	if q == nil {
		return dev
	}
	sim := standIn(dev, dev.ID, dev.Unit, 0)
	fill := func(t modbus.Table, address uint16) {
		p := &mapping.Point{Point: &devices.Point{Name: fmt.Sprintf("%v %d", t, address), Source: modbus.Register{Table: t, Address: address, Count: 1}}, Type: mapping.U16}
		if t.Bits() {
			p.Type = mapping.Bool
		}
		sim.Points, sim.Device.Points = append(sim.Points, p), append(sim.Device.Points, p.Point)
	}
	for _, t := range q.FromZero {
		fill(t, 0)
	}
	for _, b := range q.Blocks {
		for t := modbus.Coil; t <= modbus.Holding; t++ {
			if b.Table == 0 || b.Table == t {
				fill(t, b.First)
				fill(t, b.Last)
			}
		}
	}
	return sim
}

// onPlant runs work while a plant is up. Its clock is now; nil is time.Now.
func onPlant(ctx context.Context, buses []simulator.Bus, now func() time.Time, work func(*simulator.Simulator) error) error {
	if len(buses) == 0 {
		return nil
	}
	sim, err := simulator.New(simulator.Config{Buses: buses, Now: now})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() { failed <- sim.Run(ctx) }()
	defer func() { <-failed }()
	defer stop()
	select {
	case <-sim.Ready():
		return work(sim)
	case err := <-failed:
		failed <- err // for the deferred receive
		return errors.Join(err, context.Cause(ctx))
	}
}

// read reads all points of the row's device once, as a poll with all of them
// due would.
func (r *row) read(ctx context.Context, sim *simulator.Simulator) error {
	line, err := modbus.NewLine(modbus.Config{URL: sim.Addresses()[r.bus], Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer line.Close()
	queries, err := line.Plan(r.dev.Device, r.dev.Device.Points)
	if err != nil {
		return err
	}
	b := devices.NewBatch(r.dev.Device)
	defer b.Release()
	for _, q := range queries {
		q.Do(ctx, b) // the readings carry the error
		r.result.Requests += len(modbus.Requests(q))
	}
	return r.result.take(r.dev, b, sim)
}

// take compares what was read with what the simulated device holds.
func (r *Result) take(dev *mapping.Device, b *devices.Batch, sim *simulator.Simulator) error {
	mapper, err := mapping.New(mapping.Config{Gateway: "rehearsal", Devices: []*mapping.Device{dev}})
	if err != nil {
		return err
	}
	raws := make(map[*devices.Point]devices.Reading)
	for _, reading := range b.Readings {
		reading.Raw = slices.Clone(reading.Raw)
		raws[reading.Point] = reading
	}
	read := make(map[*mapping.Point]mapping.Current)
	for _, c := range mapper.AppendCurrent(nil, b) {
		read[c.Point] = c
	}
	for _, p := range dev.Points {
		v := Value{Point: p, Raw: raws[p.Point].Raw, Err: raws[p.Point].Err, Read: read[p].Value}
		v.Held, _ = sim.Value(dev.ID, p.Name)
		if sim.Holds(dev.ID, p.Name, v.Raw) { // it may have moved since
			v.Held = v.Read
		}
		switch {
		case v.Raw == nil && v.Err == nil:
			v.Err = errors.New("it was not read")
		case v.Err == nil && read[p].Cause != "":
			v.Err = errors.New(read[p].Cause)
		}
		r.Values = append(r.Values, v)
	}
	return nil
}

// hearFor bounds how long a device that speaks by itself is listened to: some
// framings know only after a second message where one begins.
const hearFor = 10 * time.Second

// hear listens to the device of a profile that speaks by itself, until all of
// its points were heard.
func hear(ctx context.Context, r *Result) error {
	const every = time.Second // some framings need the silence between messages
	lines := r.Profile.Bus.Lines
	dev := standIn(r.Profile.Device, "p", nil, every)
	polls := slices.Clone(lines.Polls)
	for i := range polls {
		polls[i].Every = every
		if polls[i].Device != nil {
			polls[i].Device = dev.Device
		}
	}
	bus := simulator.Bus{Name: "frames", Kind: simulator.Lines, Framing: lines.Framing, Polls: polls, Baud: 115200, Format: lines.Serial.Format, Devices: []*mapping.Device{dev}}
	return onPlant(ctx, []simulator.Bus{bus}, nil, func(sim *simulator.Simulator) error {
		reader, err := serial.NewReader(serial.ReaderConfig{
			Bus: "frames", Devices: []*devices.Device{dev.Device}, Framing: lines.Framing, Polls: polls,
			Open: func() (serial.Stream, error) {
				return serial.Open(serial.Config{Path: sim.Addresses()["frames"], Baud: 115200, Format: lines.Serial.Format})
			},
		})
		if err != nil {
			return err
		}
		ctx, stop := context.WithTimeout(ctx, hearFor)
		defer stop()
		all := devices.NewBatch(dev.Device)
		defer all.Release()
		var listening sync.WaitGroup
		listening.Go(func() {
			reader.Listen(ctx, func(b *devices.Batch) {
				defer b.Release()
				for _, reading := range b.Readings {
					reading.Raw = slices.Clone(reading.Raw)
					all.Readings = append(all.Readings, reading)
				}
				if len(all.Readings) >= len(dev.Points) {
					stop()
				}
			})
		})
		listening.Wait()
		return r.take(dev, all, sim)
	})
}
