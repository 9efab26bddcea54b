package modbus

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices"
)

// A notes is a Notebook in memory.
type notes struct {
	facts map[string]Facts
	news  []string
}

func (n *notes) Facts(device string) (Facts, bool) { return n.facts[device], device != "stranger" }

func (n *notes) Learned(device string, f Facts, news string) {
	if n.facts == nil {
		n.facts = map[string]Facts{}
	}
	n.facts[device] = f
	n.news = append(n.news, news)
}

// A fussy device refuses some registers, and requests that are too long.
type fussy struct {
	plant
	longest uint16
}

func (f *fussy) Read(dst []byte, unit byte, t Table, address, count uint16) ([]byte, error) {
	if f.longest > 0 && count > f.longest {
		f.plant.Read(nil, unit, t, address, 0) // to count it
		return nil, &Exception{Code: IllegalValue}
	}
	return f.plant.Read(dst, unit, t, address, count)
}

func fussyLine(t *testing.T, store Store, book Notebook) *Line {
	return scripted(t, Config{Notebook: book}, func(frame []byte) []piece { return atOnce(rtuReply(store, frame)) })
}

// TestLearnsWhatADeviceRefuses: what is learned, said and asked for then, in
// the same line and after a restart with the same notebook.
func TestLearnsWhatADeviceRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		unit    Unit
		illegal []uint16
		longest uint16
		regs    []Register
		facts   Facts
		news    string
		asked   string // in the end
	}{
		{"hole", Unit{Gaps: true, Quirks: forbid("900")}, []uint16{11}, 0, []Register{{Input, 0, 2}, {Input, 4, 2}, {Input, 10, 1}, {Input, 14, 2}},
			Facts{Holes: ranges("input 11-13")}, `reading around it; to begin so, write forbid = ["900", "input 11-13"]`, "[input 0-10 input 14-15]"},
		{"two holes", Unit{Gaps: true}, []uint16{3, 12}, 0, []Register{{Input, 0, 2}, {Input, 4, 2}, {Input, 10, 1}, {Input, 14, 2}},
			Facts{Holes: ranges("input 2-3", "input 11-13")}, `write forbid = ["input 2-3", "input 11-13"]`, "[input 0-1 input 4-10 input 14-15]"},
		{"point", Unit{Gaps: true}, []uint16{4}, 0, []Register{{Input, 0, 2}, {Input, 3, 2}, {Input, 10, 1}},
			Facts{Illegal: ranges("input 3-4")}, `points."input 3-4" = false`, "[input 0-1 input 10]"},
		{"block", Unit{Quirks: blocks("2-5")}, []uint16{4}, 0, []Register{{Input, 0, 2}, {Input, 2, 1}, {Input, 5, 1}, {Input, 6, 1}},
			Facts{Illegal: ranges("input 2-5")}, `points."input 2" = false, points."input 5" = false`, "[input 0-1 input 6]"},
		{"length", Unit{}, nil, 4, []Register{{Input, 0, 2}, {Input, 2, 2}, {Input, 4, 2}, {Input, 6, 2}},
			Facts{Apart: ranges("input 3-4")}, "asking for 3 and 4 apart; if it bears no longer requests, write max_read = 4", "[input 0-3 input 4-7]"},
		{"length over a legal hole", Unit{Gaps: true}, nil, 4, []Register{{Input, 0, 2}, {Input, 3, 2}},
			Facts{Apart: ranges("input 2-3")}, "write max_read = 2", "[input 0-1 input 3-4]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &fussy{plant: plant{illegal: map[Register]bool{}}, longest: tt.longest}
				for _, a := range tt.illegal {
					store.illegal[Register{Input, a, 1}] = true
				}
				tt.unit.ID = 1
				dev, book := meter(tt.unit, tt.regs...), &notes{}
				l := fussyLine(t, store, book)
				qs, err := l.Plan(dev, dev.Points)
				if err != nil {
					t.Fatal(err)
				}
				cycle := func(what string, qs []devices.Query) {
					t.Helper()
					store.asked()
					b, err := run(t, dev, qs...)
					if err != nil || verify(b) != nil {
						t.Error(what, err, verify(b))
					}
				}
				for range 4 {
					cycle("learning", qs)
				}
				last := fmt.Sprint(store.asked())
				if last != tt.asked || !reflect.DeepEqual(book.facts["meter"], tt.facts) {
					t.Errorf("asks for %s and knows %+v; want %s, %+v", last, book.facts["meter"], tt.asked, tt.facts)
				}
				if !strings.Contains(strings.Join(book.news, "\n"), tt.news) {
					t.Errorf("news %q, want %s", book.news, tt.news)
				}
				n := len(book.news)
				again, err := fussyLine(t, store, book).Plan(dev, dev.Points)
				if err != nil {
					t.Fatal(err)
				}
				cycle("after a restart", again)
				cycle("after a restart", again)
				if got := fmt.Sprint(store.asked()); got != tt.asked || len(book.news) != n {
					t.Errorf("after a restart it asks for %s, news %q", got, book.news[n:])
				}
			})
		})
	}
}

// TestForgetsWhatADeviceGivesNow: facts that the device belies go.
func TestForgetsWhatADeviceGivesNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, book := &plant{}, &notes{facts: map[string]Facts{"meter": {
			Illegal: ranges("input 2"), Holes: ranges("input 5-9"),
		}}}
		l := fussyLine(t, store, book)
		dev := meter(Unit{ID: 1, Gaps: true}, Register{Input, 1, 1}, Register{Input, 2, 1}, Register{Input, 3, 1}, Register{Input, 5, 5}, Register{Input, 12, 1})
		qs, err := l.Plan(dev, dev.Points)
		if err != nil || len(qs) != 4 {
			t.Fatalf("%v planned, %v", qs, err)
		}
		if b, err := run(t, dev, qs...); err != nil || verify(b) != nil {
			t.Error(err, verify(b))
		}
		if f := book.facts["meter"]; len(f.Illegal)+len(f.Holes) > 0 || len(book.news) != 2 {
			t.Errorf("knows %+v, news %q", f, book.news)
		}
		if qs, err := l.Plan(dev, dev.Points); err != nil || len(qs) != 1 {
			t.Errorf("%v planned then, %v", qs, err)
		}
	})
}

// TestLearningEnds: whatever a device refuses, after some cycles all that it
// gives is read, in requests that are not refused, and nothing is learned any
// more.
func TestLearningEnds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 25 {
		store := &fussy{plant: plant{illegal: map[Register]bool{}}, longest: uint16(4 + rnd.IntN(60))}
		for range rnd.IntN(5) {
			store.illegal[Register{Input, uint16(rnd.IntN(120)), 1}] = true
		}
		var regs []Register
		for a := 0; a < 120; a += 1 + rnd.IntN(5) {
			regs = append(regs, Register{Input, uint16(a), uint16(1 + rnd.IntN(3))})
		}
		unit := Unit{ID: 1, Gaps: rnd.IntN(2) == 0}
		synctest.Test(t, func(t *testing.T) {
			dev, book := meter(unit, regs...), &notes{}
			qs, err := fussyLine(t, store, book).Plan(dev, dev.Points)
			if err != nil {
				t.Fatal(err)
			}
			for cycle := range 40 {
				news := len(book.news)
				b, err := run(t, dev, qs...)
				if err != nil || verify(b) != nil {
					t.Fatal(err, verify(b))
				}
				if cycle < 30 {
					continue
				}
				if len(book.news) != news {
					t.Fatalf("in cycle %d it still learns: %q", cycle, book.news[news:])
				}
				for _, r := range b.Readings {
					if bad := refusedBy(store, r.Point.Source.(Register)); bad != (r.Err != nil) {
						t.Fatalf("%v is illegal: %v, but %v", r.Point.Source, bad, r.Err)
					}
				}
			}
		})
	}
}

func refusedBy(f *fussy, reg Register) bool {
	for a := int(reg.Address); a < reg.end(); a++ {
		if f.illegal[Register{reg.Table, uint16(a), 1}] {
			return true
		}
	}
	return false
}

// TestIllegalPointsAreTriedAgain even if they were known before the start.
func TestIllegalPointsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &plant{illegal: map[Register]bool{{Input, 2, 1}: true}}
		book := &notes{facts: map[string]Facts{"meter": {Illegal: ranges("input 2")}}}
		dev := meter(Unit{ID: 1}, Register{Input, 1, 1}, Register{Input, 2, 1})
		qs, err := fussyLine(t, store, book).Plan(dev, dev.Points)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int{2, 1, 1} {
			run(t, dev, qs...)
			if n := len(store.asked()); n != want {
				t.Errorf("cycle %d asks %d times", i, n)
			}
		}
		time.Sleep(illegalRetry)
		run(t, dev, qs...)
		if n := len(store.asked()); n != 2 {
			t.Errorf("after %v it asks %d times", illegalRetry, n)
		}
	})
}

// TestNothingIsKeptOfStrangers: what somebody asks for by hand is asked anew
// each time.
func TestNothingIsKeptOfStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, book := &plant{illegal: map[Register]bool{{Input, 2, 1}: true}}, &notes{}
		l := fussyLine(t, store, book)
		for range 2 {
			dev := meter(Unit{ID: 1}, Register{Input, 1, 1}, Register{Input, 2, 1})
			dev.ID = "stranger"
			if _, err := read(t, l, dev); err != nil {
				t.Error(err)
			}
			if asked := store.asked(); len(asked) != 3 {
				t.Errorf("asked for %v", asked)
			}
		}
		if len(book.news)+len(l.known) > 0 {
			t.Errorf("news %q, knows %v", book.news, l.known)
		}
	})
}

func TestFactsAreReadable(t *testing.T) {
	f := Facts{Illegal: ranges("input 3"), Holes: ranges("holding 2-9"), Apart: ranges("coil 7-8"), Models: []Model{{ID: 103, Address: 40069, Length: 50}}}
	text, err := json.Marshal(f)
	if want := `{"illegal":["input 3"],"holes":["holding 2-9"],"apart":["coil 7-8"],"models":[{"id":103,"at":40069,"length":50}]}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	var got Facts
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, %v", got, err)
	}
}
