package main

import (
	"context"
	"encoding/json"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/devices"
)

// healthEvery is how often NAME/_health is published.
const healthEvery = time.Minute

// A health is the payload of NAME/_health: the gateway's own figures, for
// sites whose metrics nobody can reach.
type health struct {
	Time       string                  `json:"time"`
	Clock      string                  `json:"clock"`                 // its quality, also while it is exact
	ClockError *int64                  `json:"clock_error,omitempty"` // milliseconds
	Started    string                  `json:"started"`
	Version    string                  `json:"version"`
	Config     string                  `json:"config"`
	Buses      map[string]busHealth    `json:"buses"`   // by table key
	Devices    map[string]int          `json:"devices"` // by state
	Bridges    map[string]bridgeHealth `json:"bridges"` // by table key
	Buffer     int64                   `json:"buffer"`  // bytes that bridges have not delivered yet
	Clients    int                     `json:"clients"` // of the broker
}

type busHealth struct {
	PortDown bool    `json:"port_down"`
	Busy     float64 `json:"busy"`   // percent of the last minute
	Errors   float64 `json:"errors"` // percent of the requests since the message before
	Requests uint64  `json:"requests"`
}

type bridgeHealth struct {
	Up      bool    `json:"up"`
	Waiting uint64  `json:"waiting"` // messages
	Oldest  float64 `json:"oldest"`  // age of the oldest of them in seconds
	Lost    uint64  `json:"lost"`    // since the start
}

// runHealth publishes NAME/_health each minute until ctx is done.
func (g *gateway) runHealth(ctx context.Context) error {
	before := map[string]devices.BusStats{}
	for wait := 5 * time.Second; devices.Sleep(ctx, wait); wait = healthEvery { // the first when the buses have had a moment
		text, err := json.Marshal(g.health(before))
		if err != nil {
			return err
		}
		g.broker.Publish(&broker.Message{Topic: g.cfg.Name + "/_health", Payload: text, QoS: 1, Retain: true, Stamp: int64(devices.Now())})
	}
	return nil
}

// health returns the present figures; before holds those of buses at the call
// before, and is brought up to date.
func (g *gateway) health(before map[string]devices.BusStats) *health {
	clock := g.clock.Now()
	h := &health{
		Time: clock.Wall(int64(devices.Now())).Format(payloadTime), Clock: clock.Quality.String(), ClockError: clock.Note(0).Error,
		Started: clock.Wall(int64(g.started)).Format(payloadTime), Version: version(), Config: g.cfg.Hash(),
		Buses: map[string]busHealth{}, Devices: map[string]int{"online": 0, "stale": 0, "offline": 0}, Bridges: map[string]bridgeHealth{},
		Clients: g.broker.Stats().Clients,
	}
	for _, b := range g.works.Load().buses {
		now := b.poller.Stats()
		h.Buses[b.ID] = busHealthOf(&now, before[b.ID])
		before[b.ID] = now
		for _, d := range now.Devices {
			h.Devices[d.State.String()]++
		}
	}
	for _, b := range g.works.Load().bridges {
		s := b.Stats()
		one := bridgeHealth{Up: s.State == bridge.Up, Lost: s.Lost}
		for _, backlog := range s.Backlog {
			one.Waiting += backlog.Records
			one.Oldest = max(one.Oldest, backlog.Oldest.Round(time.Millisecond).Seconds())
			h.Buffer += backlog.Bytes
		}
		h.Bridges[s.Name] = one
	}
	return h
}

func busHealthOf(now *devices.BusStats, before devices.BusStats) busHealth {
	h := busHealth{PortDown: now.PortDown, Busy: percent(now.Busy), Requests: now.Requests}
	if n := now.Requests - before.Requests; n > 0 {
		bad := now.Timeouts + now.Errors - before.Timeouts - before.Errors
		h.Errors = percent(float64(bad) / float64(n))
	}
	return h
}

// percent rounds a share to a tenth of a percent.
func percent(share float64) float64 { return float64(int(1000*share+0.5)) / 10 }
