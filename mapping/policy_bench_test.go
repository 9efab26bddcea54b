package mapping

import (
	"fmt"
	"syscall"
	"testing"

	"edgegateway/broker"
	"edgegateway/devices"
)

// BenchmarkPublish publishes 100 readings of one device in each iteration by
// one table, and reports what each costs of the processor, which depends less
// on who else uses the machine than the time it takes.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name string
		p    Publish
	}{
		{"json", Publish{Per: "point", Format: "json"}},
		{"json-device", Publish{Per: "device", Format: "json"}},
		{"value", Publish{Per: "point", Format: "value"}},
		{"influx", Publish{Per: "point", Format: "influx"}},
		{"influx-device", Publish{Per: "device", Format: "influx"}},
		{"senml", Publish{Per: "point", Format: "senml"}},
		{"senml-device", Publish{Per: "device", Format: "senml"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			const n = 100
			var points []*Point
			for i := range n {
				points = append(points, named(fmt.Sprintf("p%d", i), Point{Type: U16, Unit: "V", Scale: decimal("0.1")}))
			}
			dev := newDevice("d", "d", points...)
			c.p.Name, c.p.Topic, c.p.QoS = "t", "{name}/{device}/{point}", 1
			if c.p.Per == "device" {
				c.p.Topic = "{name}/{device}"
			}
			m, err := New(Config{Gateway: "g", Devices: []*Device{dev}, Publish: []Publish{c.p}})
			if err != nil {
				b.Fatal(err)
			}
			batch := devices.NewBatch(dev.Device)
			for _, p := range dev.Device.Points {
				batch.Add(p, []byte{0x08, 0xfd}, boot)
			}
			var dst []broker.Message
			b.ReportAllocs()
			began := cpuTime()
			for b.Loop() {
				for i := range batch.Readings {
					batch.Readings[i].At++ // no two batches have the same time
				}
				dst = m.AppendMessages(dst[:0], batch, exact)
			}
			b.ReportMetric(float64(cpuTime()-began)/float64(b.N)/n, "cpu-ns/point")
		})
	}
}

// cpuTime returns the processor time that this process has used.
func cpuTime() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
