package broker

import (
	"errors"
	"fmt"
	"slices"

	"edgegateway/broker/spool"
)

// bridgeUser begins the names under which bridges publish; no client may have
// such a name.
const bridgeUser = "bridge:"

// A Durable is a bridge's subscription. What it selects is stored in the logs
// until the bridge acknowledges it there.
type Durable struct {
	name      string
	from      string // Message.From of what it publishes
	logs      [NumClasses]*spool.Log
	consumers [NumClasses]*spool.Consumer
	ids       [NumClasses]uint16 // of the consumers
	filters   []string           // guarded by Broker.mu
	sub       *subscriber
	met       uint64 // Broker.routes when last met
}

// Name is the bridge's.
func (d *Durable) Name() string { return d.name }

// Log returns the log of a class, nil where there is none.
func (d *Durable) Log(c Class) *spool.Log { return d.logs[c] }

// Consumer returns the bridge's cursor in the log of a class, nil where there
// is none.
func (d *Durable) Consumer(c Class) *spool.Consumer { return d.consumers[c] }

// Durable subscribes the bridge called name to filters with at most the given
// QoS. The same name again replaces filters and QoS and keeps the cursors; a
// new one begins with the next message. A bridge gets nothing that it
// published itself.
func (b *Broker) Durable(name string, filters []string, qos byte) (*Durable, error) {
	for _, f := range filters {
		if err := ValidFilter(f); err != nil {
			return nil, fmt.Errorf("subscribe bridge %q: %w", name, err)
		}
	}
	d, err := b.durable(name)
	if err != nil {
		return nil, fmt.Errorf("subscribe bridge %q: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range d.filters {
		b.subs.remove(f, d.sub)
	}
	d.filters = slices.Clone(filters)
	for _, f := range d.filters {
		b.subs.add(f, subscription{d.sub, options{qos: qos}})
	}
	return d, nil
}

// durable returns the bridge called name, making its consumers if need be.
func (b *Broker) durable(name string) (*Durable, error) {
	b.mu.Lock()
	d := b.durables[name]
	b.mu.Unlock()
	if d != nil {
		return d, nil
	}
	d = &Durable{name: name, from: bridgeUser + name, logs: b.cfg.Logs}
	d.sub = &subscriber{durable: d}
	if d.logs == [NumClasses]*spool.Log{} {
		return nil, errors.New("there is no spool to store messages in")
	}
	for c, l := range d.logs {
		if l == nil {
			continue
		}
		consumer, err := l.Consumer(name)
		if err != nil {
			return nil, fmt.Errorf("consumer of the %v log: %w", Class(c), err)
		}
		d.consumers[c], d.ids[c] = consumer, consumer.ID()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if made := b.durables[name]; made != nil {
		return made, nil
	}
	b.durables[name] = d
	return d, nil
}
