package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/broker"
	"edgegateway/devices"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

// A lender is a bus that notes its loans.
type lender struct {
	loans []context.Context
	to    []string
	err   error
}

func (l *lender) lend(ctx context.Context, to string) error {
	if l.err == nil {
		l.loans, l.to = append(l.loans, ctx), append(l.to, to)
	}
	return l.err
}

func newPauseTest(l *lender) (*pauses, *plant) {
	p := &plant{cfg: &config.Config{}, buses: map[string]*plantBus{"rs485": {lend: l.lend}}}
	began, wall := time.Now(), time.Date(2026, 11, 20, 23, 0, 0, 0, time.UTC)
	pauses := newPauses(func() *plant { return p }, func() broker.Clock { return broker.Clock{Offset: wall.UnixNano(), Quality: broker.Exact} }, slog.New(slog.DiscardHandler))
	pauses.now = func() devices.Stamp { return devices.Stamp(time.Since(began)) }
	return pauses, p
}

// A pause ends when its time is over, which can be changed meanwhile, or by
// command; and says who has the bus until when.
func TestPauseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lender)
		p, _ := newPauseTest(l)
		s, err := p.pause(t.Context(), pauseRequest{Bus: "rs485", For: 15 * time.Minute, Note: "meter"}, "root")
		if err != nil || s.Left != 900 || s.By != "root" || s.Until.Format(time.RFC3339) != "2026-11-20T23:15:00Z" {
			t.Fatalf("%+v, %v", s, err)
		}
		if want := "root until 2026-11-20T23:15:00Z (meter); `gateway pause rs485 --end` takes it back"; l.to[0] != want {
			t.Errorf("lent to %q, want %q", l.to[0], want)
		}
		if r := p.remark("rs485"); r.By != "root" || r.Note != "meter" || r.Until != "2026-11-20T23:15:00Z" || p.remark("plc").By != "" {
			t.Errorf("remark %+v", r)
		}
		time.Sleep(14 * time.Minute)
		if s, err = p.pause(t.Context(), pauseRequest{Bus: "rs485", For: time.Hour}, "uid 7"); err != nil || s.By != "uid 7" || s.Left != 3600 {
			t.Errorf("for longer: %+v, %v", s, err)
		}
		if len(l.loans) != 2 || l.loans[1] != l.loans[0] {
			t.Error("for longer it is another loan")
		}
		time.Sleep(59 * time.Minute)
		if l.loans[0].Err() != nil || len(p.status()) != 1 {
			t.Error("it ended early")
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if context.Cause(l.loans[0]) != errPauseOver || len(p.status()) != 0 || p.remark("rs485").By != "" {
			t.Errorf("after its time: %v, %+v", context.Cause(l.loans[0]), p.status())
		}
		if _, err := p.take("rs485", "root"); err == nil || err.Error() != "bus rs485 is not paused" {
			t.Error(err)
		}
		if _, err = p.pause(t.Context(), pauseRequest{Bus: "rs485", For: time.Minute}, "root"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.take("rs485", "uid 7"); err != nil || !errors.Is(context.Cause(l.loans[2]), errPauseEnded) || !strings.HasSuffix(context.Cause(l.loans[2]).Error(), "by uid 7") {
			t.Errorf("taken back: %v, %v", err, context.Cause(l.loans[2]))
		}
		time.Sleep(time.Hour)
	})
}

func TestPauseIsRefused(t *testing.T) {
	l := &lender{err: fmt.Errorf("%w: bus rs485 is lent to a scan", devices.ErrLent)}
	p, _ := newPauseTest(l)
	for req, want := range map[pauseRequest]string{
		{Bus: "rs485", For: time.Second}:                                         "--for 1s: a bus is paused for 1m to 24h",
		{Bus: "rs485", For: 25 * time.Hour}:                                      "a bus is paused for 1m to 24h",
		{Bus: "x", For: time.Hour}:                                               `no bus "x" with devices; there are: rs485`,
		{Bus: "rs485", For: time.Hour, Note: strings.Repeat("n", longestNote+1)}: "--note",
		{Bus: "rs485", For: time.Hour}:                                           "is lent to a scan",
	} {
		if _, err := p.pause(t.Context(), req, "root"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", req, err, want)
		}
	}
	if len(p.status()) > 0 {
		t.Errorf("paused: %+v", p.status())
	}
	if _, err := p.take("x", "root"); err == nil || !strings.Contains(err.Error(), `no bus "x"`) {
		t.Error(err)
	}
}

// Who gave up while waiting for the bus does not get it.
func TestPauseNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lender)
		p, plant := newPauseTest(l)
		plant.buses["rs485"].lend = func(loan context.Context, _ string) error { <-loan.Done(); return context.Cause(loan) }
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, leave)
		if _, err := p.pause(ctx, pauseRequest{Bus: "rs485", For: time.Hour}, "root"); !errors.Is(err, context.Canceled) || len(p.status()) > 0 {
			t.Errorf("%v, %+v", err, p.status())
		}
	})
}

// The real thing: the port is free for another program, devices and commands say
// so, a reload of the bus does not take it, and a bus that is gone has no pause.
func TestPauseFreesThePort(t *testing.T) {
	t.Parallel()
	ports := [2]string{freePort(t), freePort(t)}
	device := func(more string) string {
		return "[device.tank]\nbus = \"plc\"\nunit_id = 1\nevery = \"100ms\"\npoints.level = { holding = 10 }\npoints.pump = { coil = 0, write = true }\n" + more
	}
	buses := "[bus.plc]\naddress = \"tcp://127.0.0.1:" + ports[0] + "\"\n[bus.other]\naddress = \"tcp://127.0.0.1:" + ports[1] + "\"\n"
	s := newSite(t, buses, map[string]string{
		"a": device(""), "b": "[device.meter]\nbus = \"other\"\nunit_id = 1\nevery = \"100ms\"\npoints.x = { holding = 0 }\n",
	})
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	plan := simulator.Config{}
	for i, b := range cfg.Buses {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(b.Address, "tcp://"))
		plan.Buses = append(plan.Buses, simulator.Bus{Name: cfg.Buses[i].ID, Listen: "127.0.0.1:" + port, Devices: b.Devices})
	}
	runPlant(t, plan)
	s.run()
	eventually(t, "all is read", func() bool { return s.deviceIs("tank", devices.Online) && s.deviceIs("meter", devices.Online) })

	out, code := s.command("pause", "plc", "--for", "10m", "--note", "vendor's tool")
	if want := "tcp://127.0.0.1:" + ports[0] + " is free until "; code != exitOK || !strings.HasPrefix(out, want) || !strings.Contains(out, "`gateway pause plc --end`") {
		t.Fatalf("code %d: %s", code, out)
	}
	busIs := func(bus string) (b BusStatus) {
		for _, b = range s.status().Buses {
			if b.Bus == bus {
				return b
			}
		}
		return BusStatus{}
	}
	paused := busIs("plc")
	if !paused.Paused || !strings.Contains(paused.Lent, "(vendor's tool); `gateway pause plc --end` takes it back") || !s.deviceIs("tank", devices.Maintenance) {
		t.Fatalf("status: %+v", paused)
	}
	if out, _ := s.command("status"); !strings.Contains(out, "paused: lent to ") || !strings.Contains(out, "PAUSED") || !strings.Contains(out, "vendor's tool") {
		t.Errorf("status says\n%s", out)
	}
	if out, talk, code := s.talk("write", "tank.pump", "true"); code != exitFailed || !strings.Contains(out+talk, "lent to") {
		t.Errorf("a write to a paused bus: %d %s%s", code, out, talk)
	}

	// A reload of the bus leaves the port alone.
	reload := func(file, text string) {
		t.Helper()
		before := strings.Count(s.out.String(), "msg=reloaded")
		writeFile(t, filepath.Join(s.config, file), text)
		s.cmd.Process.Signal(syscall.SIGHUP)
		eventually(t, "the reload", func() bool { return strings.Count(s.out.String(), "msg=reloaded") > before })
	}
	reload("devices.d/a.toml", device("points.temp = { holding = 11 }\n"))
	seen := busIs("other").Requests
	eventually(t, "the other bus goes on", func() bool { return busIs("other").Requests > seen+10 })
	if b := busIs("plc"); b.Requests > 0 || !b.Paused || b.Lent != paused.Lent || !s.deviceIs("tank", devices.Maintenance) {
		t.Errorf("after a reload the bus is asked, or not paused: %+v", b)
	}
	if out, code := s.command("pause", "plc", "--end"); code != exitOK || out != "The gateway has bus plc again.\n" {
		t.Errorf("code %d: %s", code, out)
	}
	eventually(t, "it is read again", func() bool { return s.deviceIs("tank", devices.Online) && !busIs("plc").Paused })

	s.command("pause", "plc")
	if list := s.status().Pauses; len(list) != 1 || list[0].Left < 890 || list[0].Left > 900 {
		t.Errorf("pauses %+v", list)
	}
	reload("devices.d/a.toml", "")
	if list := s.status().Pauses; len(list) > 0 {
		t.Errorf("of a bus that is gone: %+v", list)
	}
	if out, talk, code := s.talk("pause", "plc"); code != exitUsage || !strings.Contains(talk, `no bus "plc" with devices; there are: other`) {
		t.Errorf("%d %s%s", code, out, talk)
	}
}
