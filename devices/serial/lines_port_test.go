package serial_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/devices/serial/pty"
)

// The same reader on a real terminal, which is unplugged and plugged in again.
func TestLinesOnATerminal(t *testing.T) {
	pair, err := pty.Open(pty.Config{Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	opened := make(chan struct{}, 100)
	point := &devices.Point{Name: "speed", Source: serial.Field{Sentence: "MWV", Index: 3}}
	lines, err := serial.NewReader(serial.ReaderConfig{
		Bus: "mast", Framing: serial.Lines{Checksum: "nmea"},
		Open: func() (serial.Stream, error) {
			defer func() { opened <- struct{}{} }()
			return serial.Open(serial.Config{Path: pair.A, Baud: 115200})
		},
		Devices: []*devices.Device{{ID: "mast", Points: []*devices.Point{point}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan *devices.Batch)
	var listener sync.WaitGroup
	defer listener.Wait()
	defer cancel()
	listener.Go(func() {
		lines.Listen(ctx, func(b *devices.Batch) {
			select {
			case heard <- b:
			case <-ctx.Done():
			}
		})
	})
	sensor, err := serial.Open(serial.Config{Path: pair.B, Baud: 115200})
	if err != nil {
		t.Fatal(err)
	}
	defer sensor.Close()

	speak := func() {
		t.Helper()
		if _, err := io.WriteString(sensor, "$WIMWV,214.8,R,0.1,K,A*28\r\n"); err != nil {
			t.Fatal(err)
		}
		if b := <-heard; len(b.Readings) != 1 || string(b.Readings[0].Raw) != "0.1" {
			t.Fatalf("heard %+v", b.Readings)
		}
	}
	<-opened
	speak()
	pair.HangUp(pty.A)
	if b := <-heard; len(b.Readings) != 1 || !errors.Is(b.Readings[0].Err, devices.ErrPort) {
		t.Fatalf("after the hang-up: %+v", b.Readings)
	}
	if err := pair.Replug(pty.A); err != nil {
		t.Fatal(err)
	}
	if b := <-heard; len(b.Readings) != 0 {
		t.Fatalf("after plugging in: %+v", b.Readings)
	}
	speak()
}
