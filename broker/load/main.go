// Command load drives the gateway's broker and mosquitto with the same clients,
// one after the other in one run, and prints how they compare. run.sh builds
// what it needs.
//
//	load throughput   messages/s, loss, CPU and memory at QoS 0, 1 and 2
//	load latency      1,000 messages/s from one client to one
//	load memory       idle, with 1,000 connections, and with 10,000
//	load disturb      what others that misbehave do to a pair that does not
//	load state        100,000 retained topics; 1,000 sessions with full queues
//	load backlog      what a bridge owes after a long outage: memory, start, drain
//
// Both brokers get the same clients and settings. Each figure comes from a
// fresh process. The clients share the machine with the broker, so throughput
// says less than CPU for each message does; only ratios within one run count.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"edgegateway/broker/packet"
)

// A load is how this run goes.
type load struct {
	paths   paths
	peers   []peer
	version packet.Version
	runs    int           // of which the median is printed
	window  time.Duration // of one figure
	qos     string        // the QoS to measure
	shape   string        // of throughput: 1-50 are one publisher and 50 subscribers; "": all
	records int           // of backlog
	bytes   int           // of each payload of backlog
}

func main() {
	var l load
	p := &l.paths
	var level int
	var only string
	flag.StringVar(&p.gateway, "gateway", "gateway", "the gateway `binary`")
	flag.StringVar(&p.mosquitto, "mosquitto", "mosquitto", "the mosquitto `binary`")
	flag.StringVar(&p.config, "broker-config", "", "`lines` for the gateway's [broker] table, such as limits")
	flag.StringVar(&p.before, "before", "", "another gateway `binary` to compare with, instead of mosquitto")
	flag.BoolVar(&p.nagle, "nagle", false, "leave mosquitto its default, which collects small packets and delays them")
	flag.StringVar(&only, "only", "", "one `broker` instead of both: gateway or mosquitto")
	flag.IntVar(&level, "version", 4, "protocol level: 3, 4 (3.1.1) or 5")
	flag.IntVar(&l.runs, "runs", 3, "runs of each figure; the median is printed")
	flag.DurationVar(&l.window, "window", 2*time.Second, "how long one figure is measured")
	flag.StringVar(&l.qos, "qos", "012", "QoS to measure in throughput and latency")
	flag.StringVar(&l.shape, "shape", "", "`publishers-subscribers` to measure in throughput instead of all three")
	flag.IntVar(&l.records, "records", 1_000_000, "messages of the backlog")
	flag.IntVar(&l.bytes, "bytes", payloadSize, "`bytes` of each payload of the backlog")
	flag.Parse()
	l.version = packet.Version(level)
	l.peers = p.peers(only)
	if err := l.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func (l *load) run(modes []string) error {
	all := map[string]func() error{
		"throughput": l.throughput, "latency": l.latency, "memory": l.memory, "disturb": l.disturb, "state": l.state, "backlog": l.backlog,
	}
	if len(modes) == 0 {
		return fmt.Errorf("say what to measure: throughput, latency, memory, disturb, state or backlog")
	}
	for _, mode := range modes {
		fn := all[mode]
		if fn == nil {
			return fmt.Errorf("there is no %q", mode)
		}
		if err := fn(); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
	}
	return nil
}
