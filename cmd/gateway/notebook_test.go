package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

func TestNotebookSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "learned.json")
	var logs bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logs, nil))
	n := openNotebook(path, []string{"main", "boiler"}, log)
	if f, ok := n.Facts("main"); !ok || !reflect.DeepEqual(f, modbus.Facts{}) || logs.Len() > 0 {
		t.Errorf("without a file it knows %+v and logs %s", f, logs.String())
	}
	want := modbus.Facts{Holes: []modbus.Range{{Table: modbus.Input, First: 5, Last: 9}}, NoMask: true}
	n.Learned("main", modbus.Facts{Illegal: want.Holes}, "something")
	n.Learned("main", want, "the device refuses input 5-9")
	n.Learned("boiler", modbus.Facts{}, "nothing is left")
	n.Learned("door", modbus.Facts{NoMask: true}, "it sets no bits")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.run(ctx); err != nil { // writes what is left
		t.Error(err)
	}
	if !strings.Contains(logs.String(), "the device refuses input 5-9") || !strings.Contains(logs.String(), "device=main") {
		t.Errorf("logs %s", logs.String())
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), "boiler") || !strings.Contains(string(text), "door") {
		t.Errorf("%s, %v", text, err)
	}
	if f, ok := openNotebook(path, []string{"main"}, log).Facts("main"); !ok || !reflect.DeepEqual(f, want) {
		t.Errorf("after a restart it knows %+v", f)
	}
	if _, ok := openNotebook(path, nil, log).Facts("main"); ok {
		t.Error("facts of a device that is not in the configuration are kept")
	}
}

// A device with the wrong map is told of once, not once for each of its points.
func TestManyRefusedPointsAreOneLine(t *testing.T) {
	var logs bytes.Buffer
	n := openNotebook(filepath.Join(t.TempDir(), "learned.json"), []string{"main"}, slog.New(slog.NewTextHandler(&logs, nil)))
	var f modbus.Facts
	for i := range uint16(50) {
		f.Illegal = append(f.Illegal, modbus.Range{Table: modbus.Input, First: i, Last: i})
		n.Learned("main", f, fmt.Sprintf("refuses %d", i))
	}
	if lines := strings.Count(logs.String(), "\n"); lines != fewRefused+1 || !strings.Contains(logs.String(), "refuses many") {
		t.Errorf("%d lines:\n%s", lines, logs.String())
	}
	n.Learned("main", modbus.Facts{}, "gives it now")
	if !strings.Contains(logs.String(), "gives it now") {
		t.Error("better news are not told")
	}
}

func TestUnreadableNotebookIsKept(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":2,"devices":{}}`, `{"version":1,"devices":{"a":{"holes":["nowhere"]}}}`} {
		path := filepath.Join(t.TempDir(), "learned.json")
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		var logs bytes.Buffer
		n := openNotebook(path, nil, slog.New(slog.NewTextHandler(&logs, nil)))
		if !strings.Contains(logs.String(), "learning it anew") || len(n.facts) > 0 {
			t.Errorf("%q: knows %v, logs %s", text, n.facts, logs.String())
		}
		n.save()
		if kept, err := os.ReadFile(path + ".unreadable"); err != nil || string(kept) != text {
			t.Errorf("%q: kept %q, %v", text, kept, err)
		}
	}
}

// TestGatewayRemembersWhatADeviceRefuses learns that the registers between two
// points are refused, says what to write, and asks rightly after a restart.
func TestGatewayRemembersWhatADeviceRefuses(t *testing.T) {
	port := freePort(t)
	s := newSite(t, "", map[string]string{"plc": fmt.Sprintf(
		"[device.plc]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\nevery = \"50ms\"\ngaps = true\npoints.a = { holding = 0 }\npoints.b = { holding = 9 }\n", port)})
	cfg, report := config.Load(s.config, config.Options{})
	if cfg == nil {
		t.Fatal(report.Err())
	}
	sim := runPlant(t, simulator.Config{Buses: []simulator.Bus{{Name: "plc", Listen: "127.0.0.1:" + port, Devices: cfg.Devices}}})

	s.run()
	eventually(t, "the log says what to write", func() bool {
		return strings.Contains(s.out.String(), `forbid = [\"holding 1-8\"]`)
	})
	eventually(t, "it is kept", func() bool {
		text, err := os.ReadFile(filepath.Join(s.state, "learned.json"))
		return err == nil && strings.Contains(string(text), `"holding 1-8"`)
	})
	s.kill()
	before := sim.Counters()[0]
	s.run()
	eventually(t, "it reads again", func() bool { return sim.Counters()[0].Reads > before.Reads+4 })
	if after := sim.Counters()[0]; after.Exceptions != before.Exceptions {
		t.Errorf("after a restart the device refused %d requests", after.Exceptions-before.Exceptions)
	}
}
