package capturetest_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/capture/capturetest"
	"edgegateway/devices/modbus"
)

// What a line made of its devices in the field it makes of the capture.
func TestLineOnACapture(t *testing.T) {
	line, err := modbus.NewLine(modbus.Config{URL: "rtu+tcp://" + capturetest.Listen(t, "testdata/meters.capture"), Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	read := func(unit byte, reg modbus.Register) string {
		p := &devices.Point{Name: "p", Source: reg}
		dev := &devices.Device{ID: "d", Unit: modbus.Unit{ID: unit}, Points: []*devices.Point{p}}
		queries, err := line.Plan(dev, dev.Points)
		if err != nil || len(queries) != 1 {
			t.Fatalf("%d queries, %v", len(queries), err)
		}
		b := devices.NewBatch(dev)
		defer b.Release()
		queries[0].Do(t.Context(), b)
		if err := b.Readings[0].Err; err != nil {
			return devices.Cause(err)
		}
		return fmt.Sprintf("%X", b.Readings[0].Raw)
	}
	one, two := modbus.Register{Table: modbus.Holding, Address: 10, Count: 2}, modbus.Register{Table: modbus.Input, Address: 4, Count: 2}
	for i, x := range []struct {
		unit byte
		reg  modbus.Register
		want string
	}{{1, one, "00370000"}, {2, two, "bad reply"}, {1, one, "illegal data address"}} {
		if got := read(x.unit, x.reg); got != x.want {
			t.Errorf("read %d: %s, want %s", i, got, x.want)
		}
	}
}

// A capture also comes as a connection.
func TestConnAnswers(t *testing.T) {
	conn := capturetest.Conn(t, "testdata/meters.capture")
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write([]byte{1, 3, 0, 0x0A, 0, 2, 0xE4, 9}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 9)
	if _, err := io.ReadFull(conn, got); err != nil || fmt.Sprintf("%X", got) != "010304003700004BFD" {
		t.Errorf("answered %X, %v", got, err)
	}
}
