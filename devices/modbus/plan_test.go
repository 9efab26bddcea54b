package modbus

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

func TestPlan(t *testing.T) {
	slow := serial.Config{Baud: 9600}
	for _, tt := range []struct {
		name   string
		unit   Unit
		behind *serial.Config
		regs   []Register
		want   string // the queries, or the error
	}{
		{"one", Unit{}, nil, []Register{{Holding, 100, 1}}, "unit 1: holding 100"},
		{"neighbours in any order", Unit{}, nil, []Register{{Input, 4, 2}, {Input, 0, 2}, {Input, 2, 2}}, "unit 1: input 0-5"},
		{"overlap", Unit{}, nil, []Register{{Input, 0, 4}, {Input, 2, 1}, {Input, 3, 4}}, "unit 1: input 0-6"},
		{"the same twice", Unit{}, nil, []Register{{Input, 3, 2}, {Input, 3, 2}}, "unit 1: input 3-4"},
		{"tables apart", Unit{}, nil, []Register{{Holding, 0, 1}, {Coil, 0, 1}, {Discrete, 0, 1}, {Input, 0, 1}},
			"unit 1: coil 0, unit 1: discrete 0, unit 1: input 0, unit 1: holding 0"},
		{"hole", Unit{}, nil, []Register{{Input, 0, 2}, {Input, 3, 1}}, "unit 1: input 0-1, unit 1: input 3"},
		{"hole bridged", Unit{Gaps: true}, &slow, []Register{{Input, 0, 2}, {Input, 12, 1}}, "unit 1: input 0-12"},
		{"hole too dear", Unit{Gaps: true}, &slow, []Register{{Input, 0, 2}, {Input, 80, 1}}, "unit 1: input 0-1, unit 1: input 80"},
		{"hole free on TCP", Unit{Gaps: true}, nil, []Register{{Input, 0, 2}, {Input, 80, 1}}, "unit 1: input 0-80"},
		{"limit", Unit{}, nil, []Register{{Input, 0, 100}, {Input, 100, 25}, {Input, 125, 1}}, "unit 1: input 0-124, unit 1: input 125"},
		{"unit's limit", Unit{MaxRead: 4}, nil, []Register{{Input, 0, 2}, {Input, 2, 2}, {Input, 4, 2}}, "unit 1: input 0-3, unit 1: input 4-5"},
		{"never split", Unit{MaxRead: 5}, nil, []Register{{Input, 0, 4}, {Input, 4, 4}}, "unit 1: input 0-3, unit 1: input 4-7"},
		{"last register", Unit{}, nil, []Register{{Input, 65535, 1}}, "unit 1: input 65535"},
		{"bits", Unit{}, nil, []Register{{Coil, 0, 2000}, {Coil, 2000, 1}}, "unit 1: coil 0-1999, unit 1: coil 2000"},
		{"forbidden hole", Unit{Gaps: true, Quirks: forbid("5")}, nil, []Register{{Input, 0, 2}, {Input, 4, 1}, {Input, 6, 1}}, "unit 1: input 0-4, unit 1: input 6"},
		{"forbidden in another table", Unit{Gaps: true, Quirks: forbid("holding 0-100")}, nil, []Register{{Input, 0, 2}, {Input, 6, 1}}, "unit 1: input 0-6"},
		{"forbidden point", Unit{Quirks: forbid("4-8", "2")}, nil, []Register{{Input, 2, 1}}, `lies in 2, which forbid says must not be read; drop the point, or name the table that is meant, such as "holding 2"`},
		{"block", Unit{Quirks: blocks("10-19")}, nil, []Register{{Input, 15, 2}, {Input, 12, 1}, {Input, 20, 1}, {Input, 30, 1}}, "unit 1: input 10-20, unit 1: input 30"},
		{"block over its edge", Unit{Quirks: blocks("10-19")}, nil, []Register{{Input, 19, 2}}, "unit 1: input 10-20"},
		{"block nobody wants", Unit{Quirks: blocks("10-19")}, nil, []Register{{Input, 20, 2}}, "unit 1: input 20-21"},
		{"blocks apart", Unit{MaxRead: 10, Quirks: blocks("10-15", "16-20")}, nil, []Register{{Input, 15, 1}, {Input, 16, 1}}, "unit 1: input 10-15, unit 1: input 16-20"},
		{"block too long", Unit{MaxRead: 9, Quirks: blocks("10-19")}, nil, []Register{{Input, 15, 2}}, "lies in blocks that are read whole, input 10-19, which is more than the 9"},
		{"block over something forbidden", Unit{Quirks: &Quirks{Blocks: ranges("10-19"), Forbid: ranges("input 19")}}, nil, []Register{{Input, 15, 2}}, "in which lies input 19"},
		{"single", Unit{Quirks: &Quirks{Single: true}}, nil, []Register{{Input, 0, 2}, {Input, 2, 1}, {Input, 2, 1}}, "unit 1: input 0-1, unit 1: input 2"},
		{"single block", Unit{Quirks: &Quirks{Single: true, Blocks: ranges("0-3")}}, nil, []Register{{Input, 0, 2}, {Input, 2, 1}, {Input, 4, 1}}, "unit 1: input 0-3, unit 1: input 4"},
		{"from zero", Unit{Quirks: &Quirks{FromZero: []Table{Coil}}}, nil, []Register{{Coil, 7, 1}, {Coil, 3, 1}, {Input, 3, 1}}, "unit 1: coil 0-7, unit 1: input 3"},
		{"too far from zero", Unit{Quirks: &Quirks{FromZero: []Table{Coil}}}, nil, []Register{{Coil, 2000, 1}}, "ends behind the 2000"},
		{"nothing between zero and the end", Unit{Gaps: true}, nil, []Register{{Input, 0, 1}, {Input, 65535, 1}}, "unit 1: input 0, unit 1: input 65535"},
		{"beyond the end", Unit{}, nil, []Register{{Input, 65535, 2}}, "addresses end at 65535"},
		{"too long", Unit{MaxRead: 3}, nil, []Register{{Input, 0, 4}}, "longer than the 3"},
		{"no table", Unit{}, nil, []Register{{0, 0, 4}}, "table 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := NewLine(Config{URL: "tcp://plc", Behind: tt.behind})
			if err != nil {
				t.Fatal(err)
			}
			tt.unit.ID = 1
			dev := meter(tt.unit, tt.regs...)
			qs, err := l.Plan(dev, dev.Points)
			var got []string
			points := 0
			for _, q := range qs {
				got = append(got, q.String())
				points += len(q.Points())
			}
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dev.Points[0].Name) {
					t.Errorf("error %v, want %s", err, tt.want)
				}
				return
			}
			if s := strings.Join(got, ", "); s != tt.want || points != len(tt.regs) {
				t.Errorf("%s with %d points, want %s", s, points, tt.want)
			}
		})
	}
}

func ranges(texts ...string) (all []Range) {
	for _, s := range texts {
		r, err := ParseRange(s)
		if err != nil {
			panic(err)
		}
		all = append(all, r)
	}
	return all
}

func forbid(texts ...string) *Quirks { return &Quirks{Forbid: ranges(texts...)} }
func blocks(texts ...string) *Quirks { return &Quirks{Blocks: ranges(texts...)} }

func TestRangesAreWords(t *testing.T) {
	for _, s := range []string{"11175", "0-65535", "input 200-210", "coil 0", "holding 65535"} {
		if r, err := ParseRange(s); err != nil || r.String() != s {
			t.Errorf("%q is read as %v, %v", s, r, err)
		}
	}
	if r, err := ParseRange(" input  200 - 210 "); err != nil || r != (Range{Input, 200, 210}) {
		t.Errorf("with spaces: %v, %v", r, err)
	}
	for s, want := range map[string]string{"": "is no range", "65536": "0 to 65535", "9-8": "is no range", "1-2-3": "is no range",
		"inputs 1": `"inputs" is no table`, "input": "is no range", "-1": "is no range"} {
		if r, err := ParseRange(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is read as %v, %v", s, r, err)
		}
	}
}

// TestBlocksAreReadWhole: what is read along in a block, or before a point
// from 0 on, is nobody's value, also when a write is read back.
func TestBlocksAreReadWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &plant{}
		l := scripted(t, Config{}, func(frame []byte) []piece { return atOnce(rtuReply(store, frame)) })
		dev := meter(Unit{ID: 1, Quirks: &Quirks{Blocks: ranges("10-19"), FromZero: []Table{Coil}}},
			Register{Holding, 12, 2}, Register{Holding, 18, 1}, Register{Coil, 9, 1})
		b, err := read(t, l, dev)
		if err != nil || verify(b) != nil {
			t.Error(err, verify(b))
		}
		store.asked()
		q, err := l.Write(dev, dev.Points[1], []byte{1, 2}, true)
		if err != nil {
			t.Fatal(err)
		}
		b, err = run(t, dev, q)
		if err != nil || string(b.Readings[0].Raw) != "\x01\x02" {
			t.Error(err, b.Readings)
		}
		if asked := store.asked(); asked[len(asked)-1] != (Register{Holding, 10, 10}) {
			t.Errorf("read back by %v", asked)
		}
	})
}

func TestUnitsOfALine(t *testing.T) {
	l, err := NewLine(Config{URL: "rtu+tcp://plc"})
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range []*devices.Device{meter(Unit{ID: 0}), meter(Unit{ID: 248}), {ID: "meter"}} {
		if _, err := l.Plan(dev, nil); err == nil || !strings.Contains(err.Error(), "device meter") {
			t.Errorf("%v: %v", dev.Unit, err)
		}
	}
}

// TestIllegalRegisterHidesNoNeighbour: of sixty points one is illegal; the
// others are read from the first cycles on, and later cycles take few requests
// and leave the illegal one alone for a while.
func TestIllegalRegisterHidesNoNeighbour(t *testing.T) {
	for _, illegal := range []uint16{0, 1, 30, 59} {
		synctest.Test(t, func(t *testing.T) {
			store := &plant{illegal: map[Register]bool{{Input, illegal, 1}: true}}
			l := scripted(t, Config{}, func(frame []byte) []piece { return atOnce(rtuReply(store, frame)) })
			var regs []Register
			for i := range 60 {
				regs = append(regs, Register{Input, uint16(i), 1})
			}
			dev := meter(Unit{ID: 1}, regs...)
			qs, err := l.Plan(dev, dev.Points)
			if err != nil || len(qs) != 1 {
				t.Fatal(qs, err)
			}
			for cycle := range 4 {
				b, err := run(t, dev, qs...)
				if err != nil || verify(b) != nil {
					t.Fatal(err, verify(b))
				}
				if n := len(store.asked()); cycle > 0 && n > 7 {
					t.Errorf("cycle %d took %d requests", cycle, n)
				}
				for _, r := range b.Readings {
					reg := r.Point.Source.(Register)
					if wrong := reg.Address == illegal; (r.Err != nil) != wrong || wrong && devices.Cause(r.Err) != "illegal data address" {
						t.Errorf("cycle %d: %v: %v", cycle, reg, r.Err)
					}
					if r.Err != nil && !strings.Contains(r.Err.Error(), reg.String()+" on") {
						t.Errorf("%v names not %v", r.Err, reg)
					}
				}
			}
			clear(store.illegal)
			time.Sleep(illegalRetry)
			if b, err := run(t, dev, qs...); err != nil || b.Readings[illegal].Err != nil {
				t.Errorf("when it has become legal: %v, %v", err, b.Readings[illegal].Err)
			}
		})
	}
}

// TestDeviceOfIllegalRegistersIsAsked: what a device refuses altogether still
// shows whether it is there.
func TestDeviceOfIllegalRegistersIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &plant{illegal: map[Register]bool{{Input, 1, 1}: true}, silent: map[byte]bool{}}
		l := scripted(t, Config{}, func(frame []byte) []piece { return atOnce(rtuReply(store, frame)) })
		dev := meter(Unit{ID: 1}, Register{Input, 1, 1})
		qs, _ := l.Plan(dev, dev.Points)
		for _, silent := range []bool{false, false, true} {
			store.silent[1] = silent
			if _, err := run(t, dev, qs...); (err != nil) != silent {
				t.Errorf("silent %v: %v", silent, err)
			}
		}
	})
}

func TestCost(t *testing.T) {
	dev := meter(Unit{ID: 1}, Register{Input, 0, 125})
	for _, tt := range []struct {
		cfg      Config
		min, max time.Duration
	}{
		{Config{URL: "tcp://plc"}, 0, 0},
		{Config{URL: "tcp://plc", Behind: &serial.Config{Baud: 9600}}, 270 * time.Millisecond, 285 * time.Millisecond},
		{Config{Serial: serial.Config{Path: "/dev/ttyUSB0", Baud: 115200}}, 22 * time.Millisecond, 28 * time.Millisecond},
	} {
		l, err := NewLine(tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		qs, err := l.Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		if d := qs[0].(interface{ Cost() time.Duration }).Cost(); d < tt.min || d > tt.max {
			t.Errorf("%s: %v, want %v to %v", l.Address(), d, tt.min, tt.max)
		}
	}
}

// TestPointsComeAlong: a query takes points that lie in its request and reads
// them with it, and points of the device that nobody asked for are no gap.
func TestPointsComeAlong(t *testing.T) {
	for _, tt := range []struct {
		unit  Unit
		regs  []Register // the first two are asked for
		asked string
		taken int
	}{
		{Unit{}, []Register{{Input, 0, 2}, {Input, 6, 2}, {Input, 2, 2}, {Input, 4, 2}, {Input, 8, 1}, {Holding, 2, 1}}, "[input 0-7]", 2},
		{Unit{}, []Register{{Input, 0, 2}, {Input, 6, 2}, {Input, 2, 2}}, "[input 0-1 input 6-7]", 0},
		{Unit{Gaps: true}, []Register{{Input, 0, 2}, {Input, 6, 2}, {Input, 3, 2}, {Input, 7, 2}}, "[input 0-7]", 1},
		{Unit{Quirks: &Quirks{Single: true}}, []Register{{Input, 0, 4}, {Input, 6, 2}, {Input, 1, 1}, {Input, 6, 2}}, "[input 0-3 input 6-7]", 1},
		{Unit{Quirks: blocks("0-3", "5-9")}, []Register{{Input, 0, 1}, {Input, 1, 1}, {Input, 3, 1}, {Input, 7, 1}}, "[input 0-3]", 1},
		{Unit{Quirks: &Quirks{FromZero: []Table{Coil}}}, []Register{{Coil, 7, 1}, {Coil, 9, 1}, {Coil, 3, 1}, {Coil, 10, 1}}, "[coil 0-9]", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := &plant{}
			l := fussyLine(t, store, nil)
			tt.unit.ID = 1
			dev := meter(tt.unit, tt.regs...)
			qs, err := l.Plan(dev, dev.Points[:2])
			if err != nil {
				t.Fatal(err)
			}
			taken := 0
			for _, q := range qs {
				taken += len(q.(devices.Carrier).Carry(dev.Points[2:]))
			}
			b, err := run(t, dev, qs...)
			if err != nil || verify(b) != nil {
				t.Error(err, verify(b))
			}
			if asked := fmt.Sprint(store.asked()); asked != tt.asked || taken != tt.taken || len(b.Readings) != 2+taken {
				t.Errorf("%v: asked for %s with %d points along, want %s with %d; %d readings", tt.regs, asked, taken, tt.asked, tt.taken, len(b.Readings))
			}
		})
	}
}

// TestPlanFollowsLatency: how many requests are best depends on how long the
// device was seen to think.
func TestPlanFollowsLatency(t *testing.T) {
	regs := []Register{{Input, 0, 2}, {Input, 40, 2}}
	for latency, want := range map[time.Duration]int{5 * time.Millisecond: 2, 100 * time.Millisecond: 1} {
		if asked := plannedRegisters(t, lineAt(t, 9600, latency), Unit{ID: 1, Gaps: true}, regs); len(asked) != want {
			t.Errorf("%v: %v, want %d requests", latency, asked, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("input 200-210")
	f.Add("11175")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if again, err := ParseRange(r.String()); again != r || err != nil {
			t.Errorf("%q is %v, which is read as %v, %v", s, r, again, err)
		}
	})
}
