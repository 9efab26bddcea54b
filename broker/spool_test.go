package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"edgegateway/broker/packet"
	"edgegateway/broker/spool"
	"edgegateway/broker/spool/spooltest"
)

func openLog(t *testing.T, disk *spooltest.Disk) *spool.Log {
	t.Helper()
	log, err := spool.Open(spool.Config{Dir: "log", Name: "telemetry", FS: disk, Sync: spool.Policy{Mode: spool.Always}, Size: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// What was acknowledged is there after a power cut.
func TestAcknowledgedMessagesReachTheBridgeAfterAPowerCut(t *testing.T) {
	disk := spooltest.NewDisk()
	synctest.Test(t, func(t *testing.T) {
		log := openLog(t, disk)
		b, err := New(Config{Logs: [NumClasses]*spool.Log{Telemetry: log}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Durable("cloud", []string{"t/#"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		p := join(t, b, packet.V311, "p")
		for i := range 50 {
			p.publish(uint16(i+1), fmt.Sprint("t/", i%3), fmt.Sprint(i))
		}
		p.publish(1, "elsewhere", "x")
		if n := d.Consumer(Telemetry).Backlog().Records; n != 50 {
			t.Errorf("%d records owed", n)
		}
		disk.PowerCut(rand.New(rand.NewPCG(1, 2)))
		b.shutClients()
		b.run.Wait()
		log.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		log := openLog(t, disk)
		defer log.Close()
		b, err := New(Config{Logs: [NumClasses]*spool.Log{Telemetry: log}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Durable("cloud", []string{"t/0"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		r := d.Consumer(Telemetry).Reader(0, 0)
		defer r.Close()
		for i := range 50 {
			rec, err := r.Next(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var m Message
			if err := DecodeRecord(&rec, &m); err != nil || string(m.Payload) != fmt.Sprint(i) || m.Topic != fmt.Sprint("t/", i%3) || m.QoS != 1 {
				t.Fatalf("record %d: %+v, %v", i, m, err)
			}
		}
	})
}

func TestFailingDiskRefusesClientsAndKeepsTheGatewayGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := spooltest.NewDisk()
		log := openLog(t, disk)
		defer log.Close()
		b, err := New(Config{Logs: [NumClasses]*spool.Log{Telemetry: log}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Durable("cloud", []string{"t"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		disk.Fail(func(op spooltest.Op) error {
			if op.Kind == "write" || op.Kind == "sync" || op.Kind == "create" {
				return spooltest.ErrDead
			}
			return nil
		})
		p := join(t, b, packet.V5, "p")
		if reason := p.publish(1, "t", "x"); !reason.Failed() {
			t.Error(reason)
		}
		if reason := p.publish(2, "t", "x"); !reason.Failed() {
			t.Error(reason)
		}
		before := d.Consumer(Telemetry).Backlog().Records
		b.Publish(&Message{Topic: "t", Payload: []byte("own"), QoS: 1})
		if n := d.Consumer(Telemetry).Backlog().Records; n != before+1 {
			t.Errorf("%d records owed, %d before", n, before)
		}
		if reason := p.publish(3, "elsewhere", "x"); reason != packet.Success {
			t.Error(reason)
		}
		b.shutClients()
		b.run.Wait()
	})
}

func TestDurableReplacesItsFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := openLog(t, spooltest.NewDisk())
		defer log.Close()
		b, err := New(Config{Logs: [NumClasses]*spool.Log{Telemetry: log}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Durable("cloud", []string{"a", "b#"}, 1); err == nil {
			t.Error("an invalid filter was taken")
		}
		first, err := b.Durable("cloud", []string{"a", "b"}, 1)
		if err != nil {
			t.Fatal(err)
		}
		again, err := b.Durable("cloud", []string{"b", "c"}, 0)
		if err != nil || again != first || first.Name() != "cloud" || first.Log(Telemetry) != log || first.Log(Critical) != nil {
			t.Errorf("%+v, %v", again, err)
		}
		for _, topic := range []string{"a", "b", "c"} {
			b.Publish(&Message{Topic: topic, QoS: 1})
		}
		if n := first.Consumer(Telemetry).Backlog().Records; n != 2 {
			t.Errorf("%d records", n)
		}
		none, _ := New(Config{})
		if _, err := none.Durable("cloud", nil, 1); err == nil {
			t.Error("durable without a log")
		}
	})
}
