package modbus

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

// conditions are the lines and devices that plans are compared on.
var conditions = []struct {
	baud    int // 0: Modbus TCP
	latency time.Duration
}{
	{2400, 5 * time.Millisecond}, {2400, 30 * time.Millisecond}, {2400, 100 * time.Millisecond},
	{9600, 5 * time.Millisecond}, {9600, 30 * time.Millisecond}, {9600, 100 * time.Millisecond},
	{19200, 5 * time.Millisecond}, {19200, 30 * time.Millisecond}, {19200, 100 * time.Millisecond},
	{38400, 5 * time.Millisecond}, {38400, 30 * time.Millisecond}, {38400, 100 * time.Millisecond},
	{115200, 5 * time.Millisecond}, {115200, 30 * time.Millisecond}, {115200, 100 * time.Millisecond},
	{0, 5 * time.Millisecond}, {0, 100 * time.Millisecond},
}

// lineAt returns a line whose unit 1 was seen to need latency.
func lineAt(t testing.TB, baud int, latency time.Duration) *Line {
	t.Helper()
	cfg := Config{URL: "tcp://plc"}
	if baud > 0 {
		cfg = Config{Serial: serial.Config{Path: "/dev/ttyUSB0", Baud: baud, Format: "8N1"}}
	}
	l, err := NewLine(cfg)
	if err != nil {
		t.Fatal(err)
	}
	switch w := l.wire.(type) {
	case *tcpWire:
		entry(w.latency, 1).add(latency)
	case *serialWire:
		w.unit(1).latency.add(latency)
	}
	return l
}

// plannedRegisters returns what Plan asks for regs.
func plannedRegisters(t testing.TB, l *Line, u Unit, regs []Register) []Register {
	t.Helper()
	dev := meter(u, regs...)
	qs, err := l.Plan(dev, dev.Points)
	if err != nil {
		t.Fatal(err)
	}
	var asked []Register
	points := map[*devices.Point]bool{}
	for _, q := range qs {
		asked = append(asked, q.(*readQuery).reg)
		for _, p := range q.Points() {
			points[p] = true
		}
	}
	if len(points) != len(regs) {
		t.Fatalf("%v: %d of %d points are read", regs, len(points), len(regs))
	}
	return asked
}

// costOf is the time that requests for asked take, by the formula and not by
// the planner: 8 bytes and 5 with what is asked for, two silences, and the
// unit's thinking.
func costOf(baud int, latency time.Duration, asked []Register) (d time.Duration) {
	for _, r := range asked {
		d += latency
		if baud > 0 {
			cfg := serial.Config{Baud: baud, Format: "8N1"}
			d += time.Duration(13+r.Table.wireSize(r.count()))*cfg.CharTime() + 2*cfg.Silence35()
		}
	}
	return d
}

// TestPlanIsTheBest compares plans for small random maps and devices of all
// quirks with the best of all ways to put their points into requests, in
// whatever order and however mingled.
func TestPlanIsTheBest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	impossible := 0
	for range 1200 {
		c := conditions[rnd.IntN(len(conditions))]
		u := Unit{ID: 1, MaxRead: uint16(4 + rnd.IntN(40)), Gaps: rnd.IntN(3) > 0}
		table, reach := Holding, 1+rnd.IntN(150)
		if rnd.IntN(4) == 0 {
			table, reach = Coil, 1+rnd.IntN(3000)
		}
		if rnd.IntN(2) == 0 {
			u.Quirks = randomQuirks(rnd, table, reach)
		}
		var regs []Register
		for range 1 + rnd.IntN(7) {
			regs = append(regs, Register{table, uint16(rnd.IntN(reach)), uint16(1 + rnd.IntN(4))})
		}
		l := lineAt(t, c.baud, c.latency)
		want := exhaustive(c.baud, c.latency, u, regs)
		if want == none {
			impossible++
			if dev := meter(u, regs...); planError(l, dev) == nil {
				t.Fatalf("%+v %+v: %v is planned and cannot be read", u, u.Quirks, regs)
			}
			continue
		}
		asked := plannedRegisters(t, l, u, regs)
		for _, r := range asked {
			if !bears(u, r, regs) {
				t.Fatalf("%+v %+v: asks for %v of %v", u, u.Quirks, r, regs)
			}
		}
		if got := costOf(c.baud, c.latency, asked); got != want {
			t.Fatalf("%+v %+v at %d baud and %v, %v: %v takes %v, the best %v", u, u.Quirks, c.baud, c.latency, regs, asked, got, want)
		}
		if again := plannedRegisters(t, l, u, shuffled(rnd, regs)); !slices.Equal(again, asked) {
			t.Fatalf("in another order %v is planned, not %v", again, asked)
		}
	}
	if impossible == 0 || impossible > 600 {
		t.Errorf("%d of the maps could not be read", impossible)
	}
}

func planError(l *Line, dev *devices.Device) error {
	_, err := l.Plan(dev, dev.Points)
	return err
}

func shuffled(rnd *rand.Rand, regs []Register) []Register {
	regs = slices.Clone(regs)
	rnd.Shuffle(len(regs), func(i, k int) { regs[i], regs[k] = regs[k], regs[i] })
	return regs
}

func randomQuirks(rnd *rand.Rand, table Table, reach int) *Quirks {
	q := &Quirks{Single: rnd.IntN(4) == 0}
	ranges := func(most int) (all []Range) {
		for range rnd.IntN(most + 1) {
			first := rnd.IntN(reach)
			all = append(all, Range{Table(rnd.IntN(2)) * table, uint16(first), uint16(first + rnd.IntN(6))})
		}
		return all
	}
	q.Forbid, q.Blocks = ranges(2), ranges(2)
	if rnd.IntN(4) == 0 {
		q.FromZero = []Table{table}
	}
	return q
}

// bears reports whether u bears a request for r, to read those of regs that
// lie in it.
func bears(u Unit, r Register, regs []Register) bool {
	q := cmp.Or(u.Quirks, new(Quirks))
	known, starts := map[int]bool{}, map[Register]bool{}
	for _, g := range regs {
		if int(g.Address) < int(r.Address) || g.end() > r.end() {
			continue
		}
		starts[part(u, []Register{g})] = true
		for a := int(g.Address); a < g.end(); a++ {
			known[a] = true
		}
	}
	for a := int(r.Address); a < r.end(); a++ {
		for _, b := range q.Blocks {
			if a < int(b.First) || a > int(b.Last) {
				continue
			}
			if b.First < r.Address || int(b.Last) >= r.end() {
				return false
			}
			known[a] = true
		}
		for _, f := range q.Forbid {
			if a >= int(f.First) && a <= int(f.Last) {
				return false
			}
		}
	}
	zero := len(q.FromZero) > 0
	return r.count() <= u.limit(r.Table) && (u.Gaps || zero || len(known) == r.count()) &&
		(!zero || r.Address == 0) && (!q.Single || len(starts) <= 1 || starts[r])
}

// part returns the least request for regs.
func part(u Unit, regs []Register) Register {
	r := regs[0]
	for _, g := range regs {
		r = r.with(g)
	}
	q := cmp.Or(u.Quirks, new(Quirks))
	for range q.Blocks {
		for _, b := range q.Blocks {
			if int(b.First) < r.end() && b.Last >= r.Address {
				r = r.with(Register{r.Table, b.First, b.Last - b.First + 1})
			}
		}
	}
	if len(q.FromZero) > 0 {
		r = r.with(Register{Table: r.Table})
	}
	return r
}

// none is the time of what cannot be done.
const none = time.Duration(1<<63 - 1)

// exhaustive returns the least time over all partitions of regs.
func exhaustive(baud int, latency time.Duration, u Unit, regs []Register) time.Duration {
	best := none
	var put func(i int, parts [][]Register)
	put = func(i int, parts [][]Register) {
		if i < len(regs) {
			for k := range parts {
				old := parts[k]
				parts[k] = append(slices.Clone(old), regs[i])
				put(i+1, parts)
				parts[k] = old
			}
			put(i+1, append(parts, []Register{regs[i]}))
			return
		}
		var asked []Register
		for _, p := range parts {
			r := part(u, p)
			if !bears(u, r, p) || u.Quirks != nil && u.Quirks.Single && !alike(u, p) {
				return
			}
			asked = append(asked, r)
		}
		best = min(best, costOf(baud, latency, asked))
	}
	put(0, nil)
	return best
}

// alike reports whether all of regs are read by the same request.
func alike(u Unit, regs []Register) bool {
	return !slices.ContainsFunc(regs, func(r Register) bool { return part(u, []Register{r}) != part(u, regs[:1]) })
}

// realMaps are the addresses and lengths of the points of 70 devices on the
// market.
func realMaps(t testing.TB) map[int][]Register {
	t.Helper()
	text, err := os.ReadFile("testdata/maps.csv")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	maps := map[int][]Register{}
	for _, row := range rows[1:] {
		var n [4]int
		for i, s := range row {
			if n[i], err = strconv.Atoi(s); err != nil {
				t.Fatal(err)
			}
		}
		table := map[int]Table{fnReadCoils: Coil, fnReadDiscrete: Discrete, fnReadHolding: Holding, fnReadInput: Input}[n[1]]
		maps[n[0]] = append(maps[n[0]], Register{table, uint16(n[2]), uint16(n[3])})
	}
	return maps
}

// greedily joins neighbours with a hole of at most fill registers as long as
// the limit lasts, as most programs do; with −1 it joins nothing.
func greedily(u Unit, regs []Register, fill int) (asked []Register) {
	for _, r := range regs {
		if n := len(asked); n > 0 && asked[n-1].Table == r.Table && int(r.Address)-asked[n-1].end() <= fill {
			if joined := asked[n-1].with(r); joined.count() <= u.limit(r.Table) {
				asked[n-1] = joined
				continue
			}
		}
		asked = append(asked, r)
	}
	return asked
}

// worthwhile is the longest hole that is read faster than a request more.
func worthwhile(baud int, latency time.Duration) int {
	if baud == 0 {
		return 1 << 16
	}
	perRegister := 2 * serial.Config{Baud: baud, Format: "8N1"}.CharTime()
	return int(costOf(baud, latency, []Register{{Table: Input, Count: 1}}) / perRegister)
}

// TestPlanBeatsTheUsualWays: on no real map, line or device takes any of the
// usual ways to put points into requests less time. Run with -v it prints
// both, summed over all maps.
func TestPlanBeatsTheUsualWays(t *testing.T) {
	maps := realMaps(t)
	out := tabwriter.NewWriter(t.Output(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "%d maps, one poll each\tone per value\t\tcontiguous\t\tfill 50\t\tgreedy\t\tplan\t\n", len(maps))
	for _, c := range conditions {
		l := lineAt(t, c.baud, c.latency)
		var sums [5]struct {
			requests int
			time     time.Duration
		}
		for _, regs := range maps {
			for _, limit := range []uint16{0, 50} {
				u := Unit{ID: 1, MaxRead: limit, Gaps: true}
				best := plannedRegisters(t, l, u, regs)
				ways := [...][]Register{greedily(u, regs, -1), greedily(u, regs, 0), greedily(u, regs, 50),
					greedily(u, regs, worthwhile(c.baud, c.latency)), best}
				for i, w := range ways {
					d := costOf(c.baud, c.latency, w)
					if d < costOf(c.baud, c.latency, best) {
						t.Errorf("%d baud, %v: %v takes less time than the plan %v", c.baud, c.latency, w, best)
					}
					if limit == 0 {
						sums[i].requests += len(w)
						sums[i].time += d
					}
				}
				close := Unit{ID: 1, MaxRead: limit}
				contiguous, ours := greedily(close, regs, 0), plannedRegisters(t, l, close, regs)
				if costOf(c.baud, c.latency, contiguous) < costOf(c.baud, c.latency, ours) {
					t.Errorf("%d baud, %v, no gaps: %v takes less time than %v", c.baud, c.latency, contiguous, ours)
				}
			}
		}
		name := fmt.Sprint(c.baud, " baud, ", c.latency)
		if c.baud == 0 {
			name = fmt.Sprint("TCP, ", c.latency)
		}
		fmt.Fprintf(out, "%s\t", name)
		for _, s := range sums {
			fmt.Fprintf(out, "%d\t%d ms\t", s.requests, s.time.Milliseconds())
		}
		fmt.Fprintln(out)
	}
	out.Flush()
}

func BenchmarkPlan(b *testing.B) {
	l := lineAt(b, 9600, 30*time.Millisecond)
	regs := realMaps(b)[19]
	dev := meter(Unit{ID: 1, Gaps: true}, regs...)
	for b.Loop() {
		if _, err := l.Plan(dev, dev.Points); err != nil {
			b.Fatal(err)
		}
	}
}
