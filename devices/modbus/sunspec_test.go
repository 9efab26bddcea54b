package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// A sunny is a SunSpec device: holding registers by address, others refused.
type sunny struct {
	mu    sync.Mutex
	words map[uint16]uint16
	reads []Register
	each  func(*sunny) // before each read
}

func (s *sunny) Read(dst []byte, _ byte, t Table, address, count uint16) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.each != nil {
		s.each(s)
	}
	s.reads = append(s.reads, Register{t, address, count})
	for a := int(address); a < int(address)+int(count); a++ {
		w, ok := s.words[uint16(a)]
		if !ok || a > 0xFFFF || t != Holding {
			return nil, &Exception{Code: IllegalAddress}
		}
		dst = binary.BigEndian.AppendUint16(dst, w)
	}
	return dst, nil
}

func (s *sunny) Write(byte, Table, uint16, uint16, []byte) error {
	return &Exception{Code: IllegalFunction}
}

func (s *sunny) asked() string {
	defer func() { s.reads = nil }()
	return fmt.Sprint(s.reads)
}

// lay puts a chain behind the marker at base: the registers of each model hold
// its id × 100 and how far they are behind its own.
func (s *sunny) lay(base uint16, models ...Model) {
	s.words = map[uint16]uint16{}
	at := base + 2
	for i := range models {
		models[i].Address = at
		for n := range models[i].Length {
			s.words[at+2+n] = 100*models[i].ID + 2 + n
		}
		at = uint16(models[i].end())
	}
	for a, w := range ChainRegisters(base, models) {
		s.words[a] = w
	}
}

func (s *sunny) walk(bases ...uint16) ([]Model, error) {
	return WalkModels(bases, func(r Register) ([]byte, error) {
		raw, err := s.Read(nil, 1, r.Table, r.Address, r.Count)
		if err != nil {
			return nil, nil
		}
		return raw, nil
	})
}

func TestWalksTheModels(t *testing.T) {
	for _, tt := range []struct {
		name  string
		words map[uint16]uint16 // besides a chain of 1 and 103 behind 40000
		off   []uint16          // not there
		want  string            // ids and places, or a part of the error
	}{
		{"usual", nil, nil, "[{1 40002 66} {103 40070 50}]"},
		{"end without a length", nil, []uint16{40123}, "[{1 40002 66} {103 40070 50}]"},
		{"no end", nil, []uint16{40122, 40123}, "[{1 40002 66} {103 40070 50}]"},
		{"at 0", map[uint16]uint16{0: 0x5375, 1: 0x6E53, 2: 160, 3: 28, 32: 0xFFFF, 33: 0}, []uint16{40000}, "[{160 2 28}]"},
		{"no marker", map[uint16]uint16{40001: 0x6E54}, nil, "no SunSpec marker at holding 40000, 0, 50000: switch SunSpec on"},
		{"nothing", map[uint16]uint16{40002: 0xFFFF}, nil, "there is no model at holding 40002"},
		{"nothing is told", nil, []uint16{40002}, "there is no model at holding 40002"},
		{"empty model", map[uint16]uint16{40071: 0}, nil, "at holding 40070 is model 103 with 0 registers"},
		{"model 0", map[uint16]uint16{40070: 0}, nil, "at holding 40070 is model 0 with 50 registers"},
		{"too long", map[uint16]uint16{40071: 40000}, nil, "model 103 at holding 40070 has 40000 registers and goes beyond the last, 65535"},
		{"as far as can be", map[uint16]uint16{40071: 25463, 65535: 0xFFFF}, nil, "[{1 40002 66} {103 40070 25463}]"},
		{"id without a length", nil, []uint16{40071}, "model 103 at holding 40070 has no length"},
	} {
		s := new(sunny)
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 103, Length: 50})
		for a, w := range tt.words {
			s.words[a] = w
		}
		for _, a := range tt.off {
			delete(s.words, a)
		}
		models, err := s.walk(SunSpecBases...)
		got := fmt.Sprint(models)
		if err != nil {
			got = err.Error()
			if !isSunSpec(err) || devices.Cause(err) == "failed" {
				t.Errorf("%s: %v has no cause of its own", tt.name, err)
			}
		}
		if !strings.Contains(got, tt.want) || err == nil && !checkModels(models) {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestAWalkWithoutEndEnds(t *testing.T) {
	s := &sunny{words: map[uint16]uint16{0: 0x5375, 1: 0x6E53}}
	for a := uint16(2); a < 1000; a += 3 {
		s.words[a], s.words[a+1], s.words[a+2] = 1, 1, 7
	}
	if _, err := s.walk(0); err == nil || !strings.Contains(err.Error(), "no end after 64 models") || len(s.reads) > maxModels+2 {
		t.Errorf("%v after %d requests", err, len(s.reads))
	}
	lost := errors.New("gone")
	if _, err := WalkModels(SunSpecBases, func(Register) ([]byte, error) { return nil, lost }); err != lost {
		t.Errorf("a device that does not answer: %v", err)
	}
}

// FuzzWalkModels: whatever a device holds, a walk ends soon, and what it finds
// hangs together.
func FuzzWalkModels(f *testing.F) {
	f.Add([]byte("SunS\x00\x01\x00\x02....\xff\xff\x00\x00"), uint16(0), uint16(40000))
	f.Add([]byte("SunS\x00\x01\xff\xff"), uint16(0), uint16(40000))
	f.Add([]byte("SunS\x00\x01\x00\x00"), uint16(3), uint16(65530))
	f.Fuzz(func(t *testing.T, memory []byte, hole, base uint16) {
		asked := 0
		models, err := WalkModels([]uint16{base, 0}, func(r Register) ([]byte, error) {
			if asked++; r.check() != nil {
				t.Fatalf("asks for %v", r)
			}
			if uint16(r.Address+r.Count) == hole || len(memory) < 2 {
				return nil, nil
			}
			var raw []byte
			for a := range int(r.Count) {
				i := 2 * ((int(r.Address-base) + a) % (len(memory) / 2))
				raw = append(raw, memory[i], memory[i+1])
			}
			return raw, nil
		})
		if asked > 2+2*(maxModels+1) {
			t.Fatalf("%d requests", asked)
		}
		if (err == nil) != (len(models) > 0) || !checkModels(models) {
			t.Fatalf("%v, %v", models, err)
		}
	})
}

func sunnyLine(t *testing.T, s *sunny, book Notebook) *Line {
	return scripted(t, Config{Notebook: book}, func(frame []byte) []piece { return atOnce(rtuReply(s, frame)) })
}

func inverter(u Unit, sources ...ModelRegister) *devices.Device {
	dev := &devices.Device{ID: "meter", Unit: u}
	for _, s := range sources {
		dev.Points = append(dev.Points, &devices.Point{Name: s.String(), Source: s})
	}
	return dev
}

// told is what a batch says of each point: its registers, or the cause.
func told(b *devices.Batch) string {
	var list []string
	for _, r := range b.Readings {
		var words []string
		for raw := r.Raw; len(raw) > 0; raw = raw[2:] {
			words = append(words, fmt.Sprint(binary.BigEndian.Uint16(raw)))
		}
		if r.Err != nil {
			words = []string{devices.Cause(r.Err)}
		}
		list = append(list, strings.Join(words, "+"))
	}
	return strings.Join(list, ", ")
}

var threePhases = Either{101, 102, 103}

// A device's models are found once, each value is read with its exponent, and
// after a restart nothing is looked for again.
func TestReadsPointsOfModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, book := new(sunny), new(notes)
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 103, Length: 50}, Model{ID: 160, Length: 28}, Model{ID: 160, Length: 28})
		dev := inverter(Unit{ID: 1}, ModelRegister{Models: threePhases, At: 14, Factor: 15}, ModelRegister{Models: threePhases, At: 24, Count: 2, Factor: 26},
			ModelRegister{Models: Either{160}, Instance: 2, At: 19, Factor: 2})
		l := sunnyLine(t, s, book)
		qs, err := l.Plan(dev, dev.Points)
		if err != nil || fmt.Sprint(qs) != "[unit 1: SunSpec models]" {
			t.Fatal(qs, err)
		}
		const values = "10314+10315, 10324+10325+10326, 16019+16002"
		for _, want := range []string{
			"[holding 40000-40001 holding 40002-40003 holding 40070-40071 holding 40122-40123 holding 40152-40153 holding 40182-40183 holding 40070-40096 holding 40152-40171]",
			"[holding 40070-40096 holding 40152-40171]",
		} {
			b, err := run(t, dev, qs...)
			if got := told(b); err != nil || got != values {
				t.Errorf("%v, %v; want %s", got, err, values)
			}
			if got := s.asked(); got != want {
				t.Errorf("asked for %s, want %s", got, want)
			}
		}
		if at := l.Locate(dev, dev.Points)[dev.Points[0]]; at.At != (Register{Holding, 40084, 1}) || *at.Factor != (Register{Holding, 40085, 1}) {
			t.Errorf("it lies at %+v", at)
		}
		again := sunnyLine(t, s, book)
		if qs, err = again.Plan(dev, dev.Points); err != nil || fmt.Sprint(qs) != "[unit 1: holding 40070-40096 unit 1: holding 40152-40171]" {
			t.Fatal(qs, err)
		}
		if b, err := run(t, dev, qs...); err != nil || told(b) != values {
			t.Error(told(b), err)
		}
		if news := strings.Join(book.news, ""); news != "" {
			t.Errorf("news %q of what is as it should be", news)
		}
	})
}

// TestNeverReadsAMovedModel: whatever an update of the firmware makes of the
// chain, no value is read from where it was before.
func TestNeverReadsAMovedModel(t *testing.T) {
	for name, after := range map[string][]Model{
		"longer before":  {{ID: 1, Length: 68}, {ID: 103, Length: 50}},
		"one more":       {{ID: 1, Length: 66}, {ID: 11, Length: 13}, {ID: 103, Length: 50}},
		"other phases":   {{ID: 1, Length: 66}, {ID: 101, Length: 50}},
		"another length": {{ID: 1, Length: 66}, {ID: 103, Length: 52}},
		"shorter":        {{ID: 103, Length: 50}},
		"gone":           {{ID: 1, Length: 66}},
		"all gone":       {},
	} {
		for _, maxRead := range []uint16{0, 3} { // with all of the model, or a part
			t.Run(fmt.Sprintf("%s, %d", name, maxRead), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, book := new(sunny), new(notes)
					s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 103, Length: 50})
					dev := inverter(Unit{ID: 1, MaxRead: maxRead}, ModelRegister{Models: threePhases, At: 14, Factor: 15}, ModelRegister{Models: threePhases, At: 24, Count: 2, Factor: 26})
					qs, err := sunnyLine(t, s, book).Plan(dev, dev.Points)
					if err != nil {
						t.Fatal(err)
					}
					if b, err := run(t, dev, qs...); err != nil || told(b) != "10314+10315, 10324+10325+10326" {
						t.Fatal(told(b), err)
					}
					s.lay(40000, after...)
					want := "no such model, no such model"
					for _, m := range after {
						if threePhases.has(m.ID) {
							want = fmt.Sprintf("%[1]d14+%[1]d15, %[1]d24+%[1]d25+%[1]d26", m.ID)
						}
					}
					if len(after) == 0 {
						want = "broken SunSpec models, broken SunSpec models"
					}
					for range 2 {
						if b, err := run(t, dev, qs...); err != nil || told(b) != want {
							t.Errorf("%s, %v; want %s", told(b), err, want)
						}
					}
					if !strings.Contains(fmt.Sprint(book.news), "not where they were") {
						t.Errorf("news %q", book.news)
					}
				})
			})
		}
	}
}

// TestExponentsNeverTear: a device that changes its exponents with each request
// is read rightly.
func TestExponentsNeverTear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sunny)
		s.lay(40000, Model{ID: 103, Length: 200})
		n := uint16(0)
		s.each = func(s *sunny) {
			n++
			for _, a := range []uint16{14, 15, 190, 101} {
				s.words[40002+a] = n
			}
		}
		for _, maxRead := range []uint16{0, 95} {
			dev := inverter(Unit{ID: 1, MaxRead: maxRead}, ModelRegister{Models: threePhases, At: 14, Factor: 15}, ModelRegister{Models: threePhases, At: 190, Factor: 101})
			l := sunnyLine(t, s, nil)
			qs, err := l.Plan(dev, dev.Points)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				b, err := run(t, dev, qs...)
				if err != nil || len(b.Readings) != 2 {
					t.Fatal(told(b), err)
				}
				for _, r := range b.Readings {
					if r.Err != nil || r.Raw[1] != r.Raw[3] {
						t.Errorf("%v: % x, %v", r.Point.Source, r.Raw, r.Err)
					}
				}
			}
		}
	})
}

// TestTellsOfModelsThatAreNotThere once, asks only whether the device is there
// if there is nothing else, and finds what comes with an update.
func TestTellsOfModelsThatAreNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, book := new(sunny), new(notes)
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 160, Length: 28})
		third := ModelRegister{Models: Either{160}, At: 59, Factor: 2}
		dev := inverter(Unit{ID: 1}, third, ModelRegister{Models: Either{64}, At: 11}, ModelRegister{Models: Either{160}, Instance: 2, At: 3})
		l := sunnyLine(t, s, book)
		var qs []devices.Query
		for range 3 {
			qs, _ = l.Plan(dev, dev.Points)
			b, err := run(t, dev, qs...)
			if err != nil || told(b) != "not in its model, no such model, no such model" {
				t.Errorf("%s, %v", told(b), err)
			}
		}
		if got := strings.Join(book.news, "\n"); strings.Count(got, "the device has no register for") != 3 ||
			!strings.Contains(got, `registers up to 29 only, and the point needs 59; if it never will, write points."model 160 at 59" = false`) {
			t.Errorf("news %s", got)
		}
		s.asked()
		if run(t, dev, qs...); s.asked() != "[holding 40100]" {
			t.Error("it does not ask for the end of the chain alone")
		}
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 160, Length: 28}, Model{ID: 64, Length: 62})
		if b, err := run(t, dev, qs...); err != nil || told(b) != "6411, not in its model, no such model" {
			t.Errorf("after an update: %s, %v", told(b), err)
		}
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 160, Length: 28}, Model{ID: 64, Length: 62}, Model{ID: 160, Length: 28})
		time.Sleep(illegalRetry + time.Second)
		run(t, dev, qs...)
		if b, err := run(t, dev, qs...); err != nil || told(b) != "6411, 16003, not in its model" {
			t.Errorf("after another: %s, %v", told(b), err)
		}
	})
}

// TestHostileModels: what does not hang together costs a bounded number of
// requests, and a device that moves its models with each request too.
func TestHostileModels(t *testing.T) {
	source := ModelRegister{Models: threePhases, At: 14, Factor: 15}
	synctest.Test(t, func(t *testing.T) {
		endless, book := &sunny{words: map[uint16]uint16{40000: 0x5375, 40001: 0x6E53}}, new(notes)
		for a := uint16(40002); a < 41000; a += 3 {
			endless.words[a], endless.words[a+1], endless.words[a+2] = 1, 1, 7
		}
		dev := inverter(Unit{ID: 1}, source)
		qs, err := sunnyLine(t, endless, book).Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		for cycle, want := range []int{maxModels + 2, 3, 3} {
			b, err := run(t, dev, qs...)
			if n := len(endless.reads); err != nil || told(b) != "broken SunSpec models" || n != want {
				t.Errorf("cycle %d: %s, %v, %d requests", cycle, told(b), err, n)
			}
			endless.asked()
		}
		endless.lay(40000, Model{ID: 103, Length: 50})
		time.Sleep(brokenRest + time.Second)
		if b, _ := run(t, dev, qs...); told(b) != "10314+10315" {
			t.Errorf("mended, it says %s", told(b))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		restless, book := new(sunny), new(notes)
		dev, n := inverter(Unit{ID: 1}, source), uint16(0)
		restless.each = func(s *sunny) {
			n++
			s.lay(40000, Model{ID: 1, Length: 60 + n%7}, Model{ID: 103, Length: 50})
		}
		qs, err := sunnyLine(t, restless, book).Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			b, err := run(t, dev, qs...)
			if got := told(b); err != nil || len(b.Readings) != 1 || strings.Contains(got, "+") && got != "10314+10315" {
				t.Errorf("%s, %v", got, err)
			}
			if len(restless.reads) > 2*8 {
				t.Errorf("asked for %v", restless.reads)
			}
			restless.asked()
		}
		if len(book.news) > 60 || strings.Count(fmt.Sprint(book.news), "not where they were") > 1 {
			t.Errorf("news %q", book.news)
		}
	})
}

// A device that does not answer is asked once in a cycle, whatever is known.
func TestSilentDevicesAreNotWalked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		l := scripted(t, Config{}, func([]byte) []piece { asked.Add(1); return nil })
		dev := inverter(Unit{ID: 1}, ModelRegister{Models: threePhases, At: 14})
		qs, err := l.Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		b := devices.NewBatch(dev)
		if err := qs[0].Do(t.Context(), b); !errors.Is(err, devices.ErrTimeout) || told(b) != "timeout" || asked.Load() > 2 {
			t.Errorf("%v, %s, %d requests", err, told(b), asked.Load())
		}
	})
}

// A register that a device refuses in a model that is where it should be does
// not hide the others.
func TestRefusedRegistersOfModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, book := new(sunny), new(notes)
		s.lay(40000, Model{ID: 103, Length: 50})
		delete(s.words, 40002+40)
		dev := inverter(Unit{ID: 1}, ModelRegister{Models: threePhases, At: 14}, ModelRegister{Models: threePhases, At: 16}, ModelRegister{Models: threePhases, At: 40})
		qs, err := sunnyLine(t, s, book).Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if b, err := run(t, dev, qs...); err != nil || told(b) != "10314, 10316, illegal data address" {
				t.Errorf("%s, %v", told(b), err)
			}
		}
	})
}

func TestModelsAreWrittenAsTheyAreRead(t *testing.T) {
	for in, want := range map[string]string{
		"103": "103", " 101 | 102|103": "101|102|103", "": "is no SunSpec model", "0": "is no SunSpec model", "65535": "is no SunSpec model",
		"101|101": "stands there twice", "1|2|3|4|5|6|7|8|9": "8 models at most", "a|1": "is no SunSpec model",
	} {
		e, err := ParseModels(in)
		got := e.String()
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	for m, want := range map[ModelRegister]string{
		{Models: Either{160}, At: 1}:                           "begin at 2",
		{Models: Either{160}, At: 130, Factor: 2}:              "129 registers, and one request reads 125",
		{Models: Either{1}, At: 2, Count: 126}:                 "longer than the 125",
		{Models: Either{160}, Instance: 2, At: 120, Factor: 2}: "",
	} {
		if err := m.Check(Unit{ID: 1}); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", m, err, want)
		}
	}
}

// What is laid out is what a walk finds.
func TestLayModels(t *testing.T) {
	dev := inverter(Unit{ID: 1}, ModelRegister{Models: Either{160}, Instance: 2, At: 19, Factor: 2}, ModelRegister{Models: threePhases, At: 24, Count: 2, Factor: 26}, ModelRegister{Models: Either{1}, At: 2, Count: 16})
	models := LayModels(50000, dev.Points)
	s := new(sunny)
	s.lay(50000, models...)
	found, err := s.walk(SunSpecBases...)
	if want := "[{1 50002 66} {103 50070 25} {160 50097 1} {160 50100 18}]"; err != nil || !reflect.DeepEqual(found, models) || fmt.Sprint(found) != want {
		t.Errorf("laid %v, found %v, %v, want %s", models, found, err, want)
	}
	if got := LayModels(65530, dev.Points); len(got) > 0 {
		t.Errorf("behind 65530: %v", got)
	}
}

// With several requests outstanding, and models that move while they are, every
// value is from its model, and a poller gets all of them again at once.
func TestModelsMoveUnderAPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(sunny)
		s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 103, Length: 50}, Model{ID: 160, Length: 200})
		dsk := &desk{arrive: func(d *desk, c *deskConn, frame []byte) {
			time.AfterFunc(20*time.Millisecond, func() { c.say(tcpReply(s, frame)) })
		}}
		book := new(notes)
		l := piped(t, Config{Pipeline: 4, Notebook: book}, dsk)
		dev := inverter(Unit{ID: 1})
		for i, m := range []ModelRegister{{At: 14, Factor: 15}, {At: 24, Count: 2, Factor: 26}, {At: 38}, {Models: Either{160}, At: 19, Factor: 2}, {Models: Either{160}, At: 190}} {
			if m.Models == (Either{}) {
				m.Models = threePhases
			}
			dev.Points = append(dev.Points, &devices.Point{Name: fmt.Sprint(i), Source: m, Every: []time.Duration{time.Second, 2 * time.Second, 700 * time.Millisecond}[i%3]})
		}
		out := make(chan *devices.Batch, 100)
		p, err := devices.NewPoller(devices.PollerConfig{Bus: "roof", Line: l, Devices: []*devices.Device{dev}, Out: out,
			Log: slog.New(slog.DiscardHandler), Now: func() devices.Stamp { return devices.Stamp(time.Now().UnixNano()) }})
		if err != nil {
			t.Fatal(err)
		}
		const moves = 20
		ctx, cancel := context.WithTimeout(t.Context(), 3*moves*time.Second)
		defer cancel()
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx); close(out) })
		running.Go(func() {
			for n := range uint16(moves) {
				time.Sleep(2900 * time.Millisecond)
				s.mu.Lock()
				s.lay(40000, Model{ID: 1, Length: 66 - n%2}, Model{ID: 101 + n%3, Length: 50}, Model{ID: 160, Length: 200})
				s.mu.Unlock()
			}
		})
		good, bad := 0, 0
		for b := range out {
			for _, r := range b.Readings {
				m := r.Point.Source.(ModelRegister)
				if r.Err != nil {
					bad++
					continue
				}
				good++
				word := binary.BigEndian.Uint16(r.Raw)
				id := (word - m.At) / 100
				last := word - m.At + m.Factor
				if m.Factor == 0 {
					last = word + max(1, m.Count) - 1
				}
				if !m.Models.has(id) || word != 100*id+m.At || binary.BigEndian.Uint16(r.Raw[len(r.Raw)-2:]) != last {
					t.Errorf("%v: % x", m, r.Raw)
				}
			}
			b.Release()
		}
		running.Wait()
		if good < 200 || bad > good/20 {
			t.Errorf("%d good readings, %d without a value", good, bad)
		}
		if n := strings.Count(fmt.Sprint(book.news), "not where they were"); n != 1 {
			t.Errorf("told %d times that they move: %q", n, book.news)
		}
	})
}

// What a file says of a device is not believed where it cannot be, and not for
// long where it is wrong.
func TestKeptModelsAreChecked(t *testing.T) {
	for name, kept := range map[string][]Model{
		"beyond the end": {{ID: 103, Address: 65530, Length: 50}},
		"empty":          {{ID: 103, Address: 40070}},
		"a gap":          {{ID: 1, Address: 40002, Length: 66}, {ID: 103, Address: 40072, Length: 50}},
		"another device": {{ID: 1, Address: 2, Length: 66}, {ID: 103, Address: 70, Length: 50}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, book := new(sunny), &notes{facts: map[string]Facts{"meter": {Models: kept}}}
			s.lay(40000, Model{ID: 1, Length: 66}, Model{ID: 103, Length: 50})
			dev := inverter(Unit{ID: 1}, ModelRegister{Models: threePhases, At: 14, Factor: 15})
			qs, err := sunnyLine(t, s, book).Plan(dev, dev.Points)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := run(t, dev, qs...); err != nil || told(b) != "10314+10315" || book.facts["meter"].Models[1].Address != 40070 {
				t.Errorf("%s: %s, %v, keeps %v", name, told(b), err, book.facts["meter"])
			}
		})
	}
}
