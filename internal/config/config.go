// Package config reads the configuration and says what is wrong with it: all
// of it at once, each fault with its file, line and column, the line itself
// and what was likely meant.
//
// # How a file becomes a Config
//
// BurntSushi/toml decodes each file into plain values. It keeps no positions
// of values and stops at the first value of a wrong type, so it only decodes:
// walk notes where each key and value stands, and node joins the two. Nodes
// are laid over each other (site.toml over gateway.toml, a device over its
// profile) and keep their places, so that a fault in a profile is shown in
// the profile. The binder then fills the raw structs, whose tags list every
// key there is, and the rest of the package turns these into what the other
// packages take. No stage stops at a fault, except that a file with a syntax
// error counts as absent; faults that may follow from its absence (a bus that
// nobody knows) are then not reported.
//
// # What wins
//
// site.toml over gateway.toml and devices.d; a device over its profile, key by
// key, points by their names; then a point over its group over its device.
//
// # Secrets
//
// ${cred:NAME}, ${env:NAME} and ${file:PATH} stand for whole values and are
// expanded after parsing. Messages quote the reference, never the value.
//
// # Concurrency
//
// Load may be called from any goroutine; a Config is not changed after it.
package config

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/access"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/homeassistant"
	"edgegateway/mapping"
)

// The protocols of a bus.
const (
	Modbus = "modbus"
	Lines  = "lines"
	Frames = "frames"
)

// A Config is a whole configuration without faults, in the terms of the
// packages it is for.
type Config struct {
	Dir      string         // where it was read from
	Files    []string       // that were read, relative to Dir; embedded profiles are not among them
	Name     string         // of the gateway: the first level of its topics
	Timezone *time.Location // for anything daily

	// TrustClock says that the machine's wall time is synchronised whatever
	// the kernel says of it.
	TrustClock bool

	Buses   []*Bus // in the order of the files, then those implied by URLs
	Devices []*mapping.Device
	Publish []mapping.Publish

	HomeAssistant *homeassistant.Settings // nil: nothing is announced

	Listen      []broker.Listen
	Certificate *broker.Certificate // of those with TLS; nil: there are none
	Origins     []string
	Limits      broker.Limits
	Access      access.Policy // who may use the broker
	Web         string        // host:port on loopback where metrics and health are shown; "": nowhere
	WebValues   bool          // values are among the metrics
	Spools      [broker.NumClasses]Spool
	// SessionSpool holds what clients of the broker are owed that are away.
	SessionSpool Spool
	Bridges      []*Bridge

	Commands Commands

	// Authorities are those that certificates of others are checked by: of
	// bridges, of buses with TLS and of the broker's clients.
	Authorities []Authority

	hash  string
	parts map[string]string
	where map[*devices.Point]origin
}

// Where says in which line of which file a point is written: FILE:LINE, ""
// where that is not known.
func (c *Config) Where(p *devices.Point) string {
	if o, ok := c.where[p]; ok {
		return o.String()
	}
	return ""
}

// Hash is short, and the same for configurations that say the same in
// whatever layout. It does not depend on secrets.
func (c *Config) Hash() string { return c.hash }

// Mapping returns what the mapper of all devices needs.
func (c *Config) Mapping() mapping.Config {
	return mapping.Config{Gateway: c.Name, Zone: c.Timezone, Devices: c.Devices, Publish: c.Publish, RetainedCommands: c.Commands.Retained}
}

// A Bus is one line or endpoint with its devices.
type Bus struct {
	ID       string        // the table key; the URL where a device names one instead
	Protocol string        // Modbus, Lines or Frames
	Address  string        // path of a port, or URL with its port number
	Modbus   modbus.Config // of Modbus buses
	Aligned  bool          // cycles begin at multiples of their interval of wall time
	Lines    LinesBus      // of Lines and Frames buses
	Devices  []*mapping.Device
}

// A LinesBus is where a bus that speaks by itself is heard: at a serial port
// if Address is "", else at a TCP address.
type LinesBus struct {
	Serial  serial.Config
	Address string         // host:port
	Framing serial.Framing // nil without devices
	Polls   []serial.Poll  // none: the devices speak by themselves
}

// An Authority is one that the configuration trusts, and the file it is in.
type Authority struct {
	File string
	*x509.Certificate
}

// Commands says how commands are taken.
type Commands struct {
	MaxAge   time.Duration // for which one without an expiry of its own may wait
	Remember time.Duration // for which an id counts as used
	Retained bool          // take those that are retained, too
	NoSync   bool          // do not wait until the intent is on the medium
}

// A Spool says how much one class of messages may keep, where and how safely.
type Spool struct {
	Dir  string // holds a folder for each class; "": spool, in the state folder
	Size int64  // bytes
	Sync spool.Policy
	// Compress packs what is written.
	Compress bool
}

// A Bridge is an uplink. Its Status is nil: who knows the version fills it in
// if StatusTopic is set.
type Bridge struct {
	bridge.Config
	// StatusTopic is where NAME/_status goes upstream by the send rules, ""
	// if they do not cover it. It is the topic of the Will there.
	StatusTopic string
	Cert        *Certificate // nil: none is shown upstream
	Preset      string       // "": none
	Rate        float64      // messages in a second that the devices make for it, at most
}

// String names the bridge without its password.
func (b *Bridge) String() string { return "bridge " + b.Name }

// A Certificate is a client certificate that is read again for each
// connection, so that a renewed file is used without a restart.
type Certificate struct {
	mu        sync.Mutex
	cert, key pemFile // cert.Data is that of last
	last      *tls.Certificate
}
