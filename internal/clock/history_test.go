package clock

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

// A world has a true time and a computer whose clocks are wrong: boot time
// drifts, and wall time is what somebody set it to.
type world struct {
	truth  int64 // Unix ns
	boot   int64 // of the computer's clock
	rate   float64
	rest   float64 // of boot, below 1 ns
	offset int64   // wall - boot time
	sync   Sync
}

func (w *world) Boot() int64 { return w.boot }
func (w *world) Wall() int64 { return w.boot + w.offset }
func (w *world) Sync() Sync  { return w.sync }

// pass lets true time pass.
func (w *world) pass(d time.Duration) {
	w.truth += int64(d)
	gain := float64(d)*w.rate + w.rest
	w.boot += int64(d) + int64(gain)
	w.rest = gain - float64(int64(gain))
	if w.sync.OK { // the kernel's estimate grows by 500 ppm
		w.sync.MaxError += d / 2000
		if w.sync.MaxError >= maxError {
			w.sync = Sync{}
		}
	}
}

// ntp sets the clock as a daemon does that is off by no more than most.
func (w *world) ntp(rng *rand.Rand, most time.Duration) {
	off := int64(0)
	if most > 0 {
		off = rng.Int64N(2*int64(most)+1) - int64(most)
	}
	target := w.truth + off - w.boot
	w.sync = Sync{OK: true, MaxError: most}
	if d := target - w.offset; d > int64(400*time.Millisecond) || d < -int64(400*time.Millisecond) {
		w.offset = target
		return
	}
	w.sync.Left = time.Duration(target - w.offset) // timesyncd turns it slowly; here it does not come to that
}

// start begins a boot with the clock off by wrong.
func (w *world) start(rate float64, wrong time.Duration) {
	w.boot, w.rate, w.rest, w.sync = 0, rate, 0, Sync{}
	w.pass(time.Second)
	w.offset = w.truth + int64(wrong) - w.boot
}

// A noted is a stamp with what is true of it.
type noted struct {
	ref   spool.BootRef // as the spool would note it
	stamp int64
	truth int64
}

func id(n int) (b [16]byte) { b[0], b[1] = byte(n+1), byte((n+1)>>8); return b }

// check compares what is said of stamps with what is true.
func check(t *testing.T, what string, at broker.ClockAt, list []noted) (count [4]int) {
	t.Helper()
	for _, n := range list {
		c := at(n.ref, n.stamp)
		count[c.Quality]++
		wall := n.stamp + c.Offset
		early, late := n.truth-(wall-int64(c.Early)), wall+int64(c.Late)-n.truth
		switch c.Quality {
		case broker.Exact:
			if off := time.Duration(wall - n.truth).Abs(); off > ExactWithin {
				t.Fatalf("%s: boot %x, stamp %v: called exact and %v off", what, n.ref.ID[:2], time.Duration(n.stamp), off)
			}
		case broker.Unsynced:
			if early < 0 {
				t.Fatalf("%s: boot %x, stamp %v: it was %v before the earliest time", what, n.ref.ID[:2], time.Duration(n.stamp), time.Duration(-early))
			}
		default:
			if early < 0 || late < 0 {
				t.Fatalf("%s: boot %x, stamp %v: %v by %v, not within -%v +%v", what, n.ref.ID[:2], time.Duration(n.stamp), c.Quality, time.Duration(wall-n.truth), c.Early, c.Late)
			}
		}
	}
	return count
}

// monotone checks that times of one boot rise with their stamps.
func monotone(t *testing.T, at broker.ClockAt, list []noted) {
	t.Helper()
	list = slices.SortedFunc(slices.Values(list), func(x, y noted) int { return int(x.stamp - y.stamp) })
	last := map[[16]byte]noted{}
	for _, n := range list {
		if o, ok := last[n.ref.ID]; ok {
			was, is := o.stamp+at(o.ref, o.stamp).Offset, n.stamp+at(n.ref, n.stamp).Offset
			if is < was {
				t.Fatalf("boot %x: %v came %v before %v", n.ref.ID[:2], time.Duration(n.stamp), time.Duration(was-is), time.Duration(o.stamp))
			}
		}
		last[n.ref.ID] = n
	}
}

// TestTimeIsHonest lives through random histories of boots, outages,
// synchronisations, steps by hand and power cuts that tear the last write, and
// asks for the time of what was stamped: then, and as it is known later.
func TestTimeIsHonest(t *testing.T) {
	seed, runs := rand.Uint64(), 80
	if text := os.Getenv("CLOCK_SEED"); text != "" { // the one that a failure told
		seed, _ = strconv.ParseUint(text, 10, 64)
		runs = 1
	} else if os.Getenv("GATEWAY_LONG") != "" {
		runs = 2000
	}
	var count [4]int
	for i := range runs {
		c := honest(t, seed+uint64(i))
		for q, n := range c {
			count[q] += n
		}
	}
	t.Logf("seed %d, %d histories: %d exact, %d interpolated, %d bounded, %d unsynced", seed, runs, count[broker.Exact], count[broker.Interpolated], count[broker.Bounded], count[broker.Unsynced])
	for q, n := range count {
		if n == 0 && runs > 1 {
			t.Errorf("nothing was %s: the histories do not try enough", broker.Quality(q))
		}
	}
}

func honest(t *testing.T, seed uint64) (count [4]int) {
	rng := rand.New(rand.NewPCG(seed, 6))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	disk := spooltest.NewDisk()
	w := &world{truth: begun.Add(time.Duration(rng.Int64N(int64(300 * 24 * time.Hour)))).UnixNano()}
	var all []noted
	spoiled := false
	for n := range 1 + rng.IntN(6) {
		if n > 0 {
			w.pass(time.Duration(rng.Int64N(int64([]time.Duration{time.Second, 10 * 24 * time.Hour}[rng.IntN(2)])))) // off
		}
		if n > 0 && rng.IntN(20) == 0 && len(disk.Bytes("state", fileName)) > 0 {
			disk.Flip("state", fileName, int64(rng.IntN(2*slotSize)))
			spoiled = true
		}
		w.start((2*rng.Float64()-1)*99e-6, time.Duration(rng.NormFloat64()*float64(60*24*time.Hour)))
		s := Open(Config{BootID: id(n), Dir: "state", FS: disk, Kernel: w})
		all = append(all, w.live(t, rng, &s, disk, id(n))...)
		c := check(t, "at the end of a boot", s.At, all)
		for q, k := range c {
			count[q] += k
		}
		if !spoiled {
			monotone(t, s.At, all)
		}
		if rng.IntN(2) == 0 { // politely
			s.poll()
			s.due = true
			s.save()
		} else {
			disk.PowerCut(rng)
		}
		disk.Start()
	}
	return count
}

// live lets a boot happen.
func (w *world) live(t *testing.T, rng *rand.Rand, s **Source, disk *spooltest.Disk, id [16]byte) (list []noted) {
	quality := time.Duration(rng.IntN(3)) * 20 * time.Millisecond
	online := rng.IntN(3) > 0
	polled, synced := int64(0), int64(0)
	for range 20 + rng.IntN(300) {
		switch d := time.Duration(1 + rng.Int64N(int64(40*time.Second))); rng.IntN(100) {
		case 0: // an outage, or its end
			online = !online
		case 1: // somebody sets the clock
			w.offset += rng.Int64N(int64(48*time.Hour)) - int64(24*time.Hour)
			w.sync = Sync{}
		case 2: // much time passes, and the gateway looks at the clock as it does
			for range rng.IntN(400) {
				w.pass(30 * time.Second)
				w.daemon(rng, online, quality, &synced)
				w.look(*s, &polled)
			}
		case 3: // it is restarted
			if rng.IntN(2) == 0 {
				(*s).due = true
				(*s).save()
			}
			*s = Open(Config{BootID: id, Dir: "state", FS: disk, Kernel: w})
		default:
			w.pass(d)
		}
		w.daemon(rng, online, quality, &synced)
		w.look(*s, &polled)
		boot, wall, exact := (*s).Times()
		found := spool.BootRef{ID: id, Offset: wall - boot, Synced: exact, At: boot}
		switch k := len(list); {
		case k > 0 && rng.IntN(4) == 0: // a ring file of which an area was begun long ago
			found = list[k-1].ref
		case rng.IntN(20) == 0: // or by an older program
			found.At = 0
		}
		list = append(list, noted{ref: found, stamp: w.boot - rng.Int64N(int64(5*time.Second))%w.boot})
		n := &list[len(list)-1]
		n.truth = w.truth - int64(float64(w.boot-n.stamp)/(1+w.rate))
		check(t, "live", func(spool.BootRef, int64) broker.Clock { return (*s).Now() }, []noted{{stamp: w.boot, truth: w.truth}})
	}
	return list
}

// daemon is what keeps the clock while there is a network.
func (w *world) daemon(rng *rand.Rand, online bool, quality time.Duration, last *int64) {
	if w.sync.Left != 0 { // turned by now: what is left of it is taken as done at once
		w.sync.Left = 0
	}
	if online && w.truth-*last > int64(17*time.Minute) {
		*last = w.truth
		w.ntp(rng, quality)
		if w.sync.Left != 0 { // a step in place of turning, which would need another rate
			w.offset += int64(w.sync.Left)
			w.sync.Left = 0
		}
	}
}

// look is what Run does.
func (w *world) look(s *Source, last *int64) {
	wait := pollUnsynced
	if s.Quality() == broker.Exact {
		wait = pollSynced
	}
	if w.boot-*last >= int64(wait) || *last > w.boot {
		*last = w.boot
		s.poll()
		s.save()
	}
}

// Of several boots in a row that never knew the time, each is pushed up by those
// before it and down by those behind it.
func TestBoundsOfBootsInARow(t *testing.T) {
	w, disk := synchronised(), spooltest.NewDisk()
	var list []noted
	var s *Source
	for n := range 5 {
		if n > 0 {
			w.pass(time.Second)
			w.start(-90e-6, -100*24*time.Hour)
		}
		s = Open(Config{BootID: id(n), Dir: "state", FS: disk, Kernel: w})
		w.pass(10 * time.Hour)
		if n == 0 || n == 4 {
			w.sync = Sync{OK: true}
			w.offset = w.truth - w.boot
		}
		s.poll()
		s.due = true
		s.save()
		list = append(list, noted{ref: spool.BootRef{ID: id(n)}, stamp: w.boot, truth: w.truth})
	}
	if c := check(t, "in the end", s.At, list); c[broker.Bounded] != 3 || c[broker.Exact] != 2 {
		t.Errorf("%v", c)
	}
	for _, n := range list[1:4] { // 40 h by 100 ppm are 14 s, and in both directions
		if c := s.At(n.ref, n.stamp); c.Early+c.Late > 40*time.Second {
			t.Errorf("boot %x: -%v +%v", n.ref.ID[:1], c.Early, c.Late)
		}
	}
}
