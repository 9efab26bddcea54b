package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPlanShowsRequestsAndLoad(t *testing.T) {
	s := newSite(t, `
[bus.rs485]
address = "/dev/ttyUSB0"
baud    = 9600
[bus.mast]
address  = "/dev/ttyUSB1"
baud     = 4800
protocol = "lines"
`, map[string]string{
		"meters": "[devices.meter]\nprofile = \"eastron/sdm630\"\nbus = \"rs485\"\nunit_ids = \"1-4\"\n",
		"mast":   "[device.mast]\nbus = \"mast\"\n[device.mast.line.MWV]\nwind_speed = { field = 3, type = \"f64\" }\n",
		"plc":    "[bus.plc]\naddress = \"tcp://192.0.2.1:502\"\npipeline = 4\nphase = \"aligned\"\n[device.plc]\nbus = \"plc\"\nunit_id = 1\n[device.plc.points]\nlevel = { holding = 7 }\n",
	})
	out, code := s.command("plan")
	for _, want := range []string{
		"bus rs485  /dev/ttyUSB0  9600 8N1  load ", "input 0-", "voltage_l1", "meter-1, meter-2, meter-3, meter-4", "4 × ", "TROUBLE: bus rs485 needs ", "raise the baud rate to ",
		"1s + 1m ", "4 requests at a time  aligned to the clock", "20ms of thinking assumed", "speaks by itself", "holding 7", "5ms of thinking assumed in each. Every interval can be met.",
	} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("plan: code %d; it does not say %q:\n%s", code, want, out)
		}
	}
	if out, code := s.command("check"); code != exitOK || !strings.Contains(out, "gateway.toml:5:6: warning: bus rs485 needs ") {
		t.Errorf("check: code %d, want a warning about the load of rs485:\n%s", code, out)
	}
	if _, code := s.command("plan", "nosuch"); code != exitUsage {
		t.Errorf("plan of a bus that is not there: code %d, want %d", code, exitUsage)
	}
	out, _ = s.command("plan", "rs485", "--json", "--thinking", "1ms")
	var plans []busPlan
	if err := json.Unmarshal([]byte(out), &plans); err != nil || len(plans) != 1 {
		t.Fatalf("plan --json: %v, %d buses:\n%s", err, len(plans), out)
	}
	p := plans[0]
	var load float64
	for _, r := range p.Requests {
		load += r.Load
		if r.Time < r.Wire || r.Table != "input" || len(r.Points) == 0 {
			t.Errorf("request %+v: want input registers with points, its time longer than that on the wire", r)
		}
	}
	if p.Thinking != 0.001 || p.Load > 1 || !p.Fits || load/p.Load < 0.999 || load/p.Load > 1.001 {
		t.Errorf("thinking %v, load %v of which the requests make %v, fits: %v; want 1 ms, their sum, and that it just fits", p.Thinking, p.Load, load, p.Fits)
	}
}
