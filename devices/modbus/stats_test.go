package modbus

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"edgegateway/devices"
)

// A countingPort is a port whose driver counts what goes wrong.
type countingPort struct {
	Port
	frames *atomic.Uint64
}

func (p countingPort) Stats() *devices.PortStats { return &devices.PortStats{Frame: p.frames.Load()} }

// What the driver has counted is looked at when an exchange fails, and begins
// anew when the port is opened.
func TestStatsTellWhatThePortCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frames atomic.Uint64
		var hears atomic.Bool
		l := scripted(t, Config{}, func(frame []byte) []piece {
			frames.Add(1)
			if !hears.Load() {
				return nil
			}
			return atOnce(rtuReply(&plant{}, frame))
		})
		dial := l.carrier.dial
		l.carrier.dial = func(ctx context.Context) (Port, error) {
			p, err := dial(ctx)
			return countingPort{p, &frames}, err
		}
		ask := func() error {
			dev := &devices.Device{ID: "a", Unit: Unit{ID: 1}, Points: []*devices.Point{{Name: "p", Source: Register{Holding, 0, 1}}}}
			queries, err := l.Plan(dev, dev.Points)
			if err != nil {
				t.Fatal(err)
			}
			b := devices.NewBatch(dev)
			defer b.Release()
			return queries[0].Do(t.Context(), b)
		}
		if err := ask(); err == nil {
			t.Fatal("a deaf device answered")
		}
		if s := l.Stats(); s.Port == nil || s.Port.Frame != frames.Load() || s.Port.Frame == 0 {
			t.Errorf("after a failure: %+v, and the port counted %d", s.Port, frames.Load())
		}
		hears.Store(true)
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		if s := l.Stats(); s.Port != nil || s.Opened != 2 {
			t.Errorf("after it was opened again: %+v, opened %d times", s.Port, s.Opened)
		}
	})
}
