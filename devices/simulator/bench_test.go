package simulator

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// wide is a device of 125 holding registers.
func wide(unit byte) *mapping.Device {
	b := &build{id: "wide", unit: unit}
	for i := range 125 {
		b.add(modbus.Holding, "x"+string(rune('a'+i)), mapping.Point{Type: mapping.U16, Unit: "%"})
	}
	return b.device("plc")
}

// BenchmarkTCP reads 125 registers over one connection, one request after the
// other and with 16 under way.
func BenchmarkTCP(b *testing.B) {
	for name, window := range map[string]int{"window=1": 1, "window=16": 16} {
		b.Run(name, func(b *testing.B) {
			s := newPlant(b, nil, Config{}, wide(1))
			run(b, s)
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.Addresses()["plc"], "tcp://"))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			reply := make([]byte, 9+250)
			for n := 0; b.Loop(); n++ {
				if err := exchange(conn, reply, n, window); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*window)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

// exchange sends window requests at once and reads their answers.
func exchange(conn net.Conn, reply []byte, n, window int) error {
	var requests []byte
	for i := range window {
		requests = append(binary.BigEndian.AppendUint16(requests, uint16(n*window+i)), 0, 0, 0, 6, 1, 3, 0, 0, 0, 125)
	}
	if _, err := conn.Write(requests); err != nil {
		return err
	}
	for range window {
		if _, err := io.ReadFull(conn, reply); err != nil {
			return err
		}
	}
	return nil
}
