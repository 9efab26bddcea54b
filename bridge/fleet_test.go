package bridge

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const fleetSize = 1000

// A fleet is a thousand bridges of one far broker, or of a cluster of them. What
// they decide is their own code; time is counted here, as the next one to act is
// chosen, for the race detector of Go 1.26 does not bear that many goroutines
// in simulated time (golang/go issue 78156).
type fleet struct {
	now     time.Duration // since the power came
	members []*member
	away    map[string]bool // hosts
	limit   int             // connections that a host lets in during a second; 0: all
	second  time.Duration   // when the present one began
	let     map[string]int  // in it
	knocks  []time.Duration
	in      []time.Duration
}

// A member is one bridge.
type member struct {
	*Bridge
	due   time.Duration // when it connects next
	up    time.Duration // since when it is connected
	where string        // it is connected to; "": it is not
}

// newFleet returns bridges that start at once, so long after the boot.
func newFleet(t *testing.T, servers int, uptime time.Duration) *fleet {
	t.Helper()
	f := &fleet{now: uptime, away: make(map[string]bool), let: make(map[string]int)}
	cfg := Config{Name: "cloud", QoS: 1, Alike: servers > 1, Now: func() int64 { return int64(f.now) }}
	for n := range servers {
		cfg.URLs = append(cfg.URLs, fmt.Sprintf("tcp://s%d:1", n))
	}
	const seed = 7
	for n := range fleetSize {
		cfg.ClientID = fmt.Sprint("gw", n)
		b, err := newBridge(cfg, nobody{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.random = rand.New(rand.NewPCG(seed, uint64(n))).Float64
		f.members = append(f.members, &member{Bridge: b, due: f.now + b.firstWait()})
	}
	return f
}

// step has the next one connect, not later than until, and reports whether
// there was one.
func (f *fleet) step(until time.Duration) bool {
	var m *member
	for _, x := range f.members {
		if x.where == "" && (m == nil || x.due < m.due) {
			m = x
		}
	}
	if m == nil || m.due > until {
		f.now = max(f.now, until)
		return false
	}
	f.now = m.due
	host := m.nextURL().Host
	if f.knock(host) {
		m.where, m.up = host, f.now
	} else {
		m.due = f.now + m.nextWait(0)
	}
	return true
}

// knock reports whether a host lets one in.
func (f *fleet) knock(host string) bool {
	f.knocks = append(f.knocks, f.now)
	if f.away[host] {
		return false
	}
	if f.now-f.second >= time.Second {
		f.second = f.now
		clear(f.let)
	}
	if f.let[host]++; f.limit > 0 && f.let[host] > f.limit {
		return false
	}
	f.in = append(f.in, f.now)
	return true
}

// pass lets time pass.
func (f *fleet) pass(d time.Duration) {
	for until := f.now + d; f.step(until); {
	}
}

// at returns who is connected to a host.
func (f *fleet) at(host string) (list []*member) {
	for _, m := range f.members {
		if m.where == host {
			list = append(list, m)
		}
	}
	return list
}

// throwOff ends all connections to a host in one instant, and returns how many
// these were. What came before is not counted any more.
func (f *fleet) throwOff(host string) int {
	f.knocks, f.in = nil, nil
	all := f.at(host)
	for _, m := range all {
		m.where, m.due = "", f.now+m.nextWait(f.now-m.up)
	}
	return len(all)
}

// A rush is how a fleet came back.
type rush struct {
	came int
	peak int           // attempts in the busiest second
	mean float64       // attempts in a second until all were in
	half time.Duration // until half of them were
	all  time.Duration // until all were
}

func (r rush) String() string {
	return fmt.Sprintf("%d connected: %d attempts in the busiest second, %.0f in the mean one; half were in after %.1f s, all after %.1f s",
		r.came, r.peak, r.mean, r.half.Seconds(), r.all.Seconds())
}

// comeBack has all connect who are not.
func (f *fleet) comeBack(t *testing.T) rush {
	t.Helper()
	start := f.now
	f.knocks, f.in = nil, nil
	for f.step(start + time.Hour) {
	}
	n := len(f.in)
	if slices.ContainsFunc(f.members, func(m *member) bool { return m.where == "" }) || n == 0 {
		t.Fatalf("%d are connected after an hour", n)
	}
	r := rush{came: n, half: f.in[n/2] - start, all: f.in[n-1] - start}
	r.mean = float64(len(f.knocks)) / max(1, r.all.Seconds())
	for i, j := 0, 0; j < len(f.knocks); j++ {
		for f.knocks[j]-f.knocks[i] >= time.Second {
			i++
		}
		r.peak = max(r.peak, j-i+1)
	}
	return r
}

// TestFleetComesBack has a thousand gateways connect at once, for each reason
// why they might, to far brokers of which each bears so many connections a
// second. docs/fleet.md shows the figures.
func TestFleetComesBack(t *testing.T) {
	const day, first = 24 * time.Hour, "s0:1"
	running := func(t *testing.T, servers int) *fleet {
		f := newFleet(t, servers, day)
		f.pass(time.Hour)
		return f
	}
	for _, limit := range []int{50, 100, 0} {
		for _, test := range []struct {
			name string
			peak float64       // of those that come, in one second, at most
			all  time.Duration // until all are in, at most
			do   func(t *testing.T) rush
		}{
			{"after an outage of 10 minutes", 0.06, time.Minute + time.Second, func(t *testing.T) rush {
				f := running(t, 1)
				f.away[first] = true
				f.throwOff(first)
				f.pass(10 * time.Minute)
				tries := float64(len(f.knocks)) / fleetSize
				if t.Logf("each tried %.1f times in ten minutes", tries); tries > 30 {
					t.Error("that is too often")
				}
				f.away[first], f.limit = false, limit
				return f.comeBack(t)
			}},
			{"thrown off at once", 0.25, time.Minute, func(t *testing.T) rush {
				f := running(t, 1)
				f.limit = limit
				f.throwOff(first)
				return f.comeBack(t)
			}},
			{"one of three servers dies", 0.25, 15 * time.Second, func(t *testing.T) rush {
				f := running(t, 3)
				for _, host := range []string{first, "s1:1", "s2:1"} {
					if n := len(f.at(host)); n > fleetSize*2/5 || n < fleetSize/4 {
						t.Errorf("%d of %d are at %s", n, fleetSize, host)
					}
				}
				f.away[first], f.limit = true, limit
				f.throwOff(first)
				return f.comeBack(t)
			}},
			{"power returns", 0.25, time.Minute, func(t *testing.T) rush {
				f := newFleet(t, 1, 20*time.Second)
				f.limit = limit
				return f.comeBack(t)
			}},
		} {
			t.Run(fmt.Sprintf("%s, %d a second", test.name, limit), func(t *testing.T) {
				r := test.do(t)
				t.Log(r)
				if share := float64(r.peak) / float64(r.came); share > test.peak {
					t.Errorf("%.1f %% came in one second, more than %.1f %%", 100*share, 100*test.peak)
				}
				if r.all > test.all {
					t.Errorf("all were in after %v, later than %v", r.all, test.all)
				}
			})
		}
	}
}
