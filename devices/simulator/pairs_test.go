package simulator

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// troubles are what befalls a unit, one after the other.
var troubles = []Fault{
	{},
	{Latency: 70 * time.Millisecond, Every: 3}, // longer than is waited
	{Silent: true, Every: 4},
	{Exception: 6, Every: 3},
	{Wrong: WrongUnit, Every: 2},
	{Wrong: WrongFunction, Every: 2},
	{Wrong: WrongCount, Every: 2},
	{Wrong: WrongTransaction, Every: 2},
	{Noise: 4, Every: 2},
	{Drop: 1, Every: 2},
	{Drop: 3, Every: 2},
	{Flip: 1, Every: 2},
	{Latency: 45 * time.Millisecond, Noise: 2, Every: 2},
	{Latency: 70 * time.Millisecond, Drop: 1, Every: 3},
}

const perTrouble = 6 // cycles

// TestNoWrongValueOnAnyPair reads two units over each framing and carrier while
// one of them goes through all troubles and the bus is unplugged now and then:
// each reading is a value that its very point held, or an error.
func TestNoWrongValueOnAnyPair(t *testing.T) {
	t.Parallel()
	rounds := 1
	if os.Getenv("GATEWAY_LONG") != "" {
		rounds = 60
	}
	var devs []*mapping.Device
	// An answer that says that it is from another unit says 2. If there were
	// one, nobody could tell whose it is.
	for _, unit := range []byte{1, 3} {
		b := &build{id: fmt.Sprint("d", unit), unit: unit}
		for k := range 20 {
			b.add(modbus.Holding, fmt.Sprintf("p%02d", k), mapping.Point{Type: mapping.U32})
		}
		devs = append(devs, b.device("bus"))
	}
	for kind, b := range buses(devs...) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // they mostly wait
			s := newPlant(t, nil, Config{Buses: []Bus{b}, Check: true, History: 1 << 14})
			run(t, s)
			l := line(t, s, "bus", 30*time.Millisecond)
			good, failed, wrong, excused := 0, 0, 0, 0
			for cycle := range rounds * len(troubles) * perTrouble {
				trouble := troubles[cycle/perTrouble%len(troubles)]
				if cycle%perTrouble == 0 {
					if err := s.SetFault("bus", 1, trouble); err != nil {
						t.Fatal(err)
					}
				}
				if cycle%61 == 60 {
					s.Unplug("bus")
				}
				for i := range devs {
					// Another part each time: what is late is never of the same length.
					dev := devs[(cycle+i)%2]
					from := cycle % 10
					part := newTestDevice(&devices.Device{ID: dev.ID, Unit: dev.Unit}, dev.Points[from:from+1+cycle%9])
					before := undetectables(s)
					for name, r := range readAll(t, l, part) {
						switch {
						case r.Err != nil:
							failed++
						case s.Holds(dev.ID, name, r.Raw):
							good++
						case undetectables(s) > before:
							excused++
						default:
							wrong++
							t.Errorf("%+v: %s of %s: read %x, which it never held", trouble, name, dev.ID, r.Raw)
						}
					}
				}
				if cycle%61 == 60 {
					s.Replug("bus")
					until(t, "the bus is back", func() bool { return readOne(t, l, devs[1], "p00").Err == nil })
				}
			}
			if hit := s.Counters()[0].Faults; good == 0 || failed == 0 || hit < uint64(rounds*len(troubles)) {
				t.Errorf("%d good, %d failed; %d requests hit", good, failed, hit)
			}
			t.Logf("%d good readings, %d failed, %d wrong; apart from these %d of %d answers whose corruption kept a right checksum; %+v",
				good, failed, wrong, excused, undetectables(s), s.Counters())
		})
	}
}

// undetectables counts the answers of a plant whose corruption kept a right
// checksum.
func undetectables(s *Simulator) (n uint64) {
	for _, c := range s.Counters() {
		n += c.Undetectable
	}
	return n
}

// TestRoleIsAskedFor: who has not the role is refused everything as an illegal
// function, and the message says which role was shown.
func TestRoleIsAskedFor(t *testing.T) {
	server := ownCertificate()
	clients := x509.NewCertPool()
	b := buses(meter(1).device("bus"))["tls"]
	b.TLS, b.Role = server, "operator"
	server.ClientCAs, server.ClientAuth = clients, tls.VerifyClientCertIfGiven
	for _, c := range []struct{ role, want string }{
		{"", "no client certificate was shown"}, {"viewer", `role is "viewer"`}, {"operator", ""},
	} {
		s := newPlant(t, nil, Config{Buses: []Bus{b}})
		run(t, s)
		trust := x509.NewCertPool()
		trust.AddCert(server.Certificates[0].Leaf)
		cfg := modbus.Config{URL: s.Addresses()["bus"], TLS: &tls.Config{RootCAs: trust}}
		if c.role != "" {
			own := clientCertificate(t, server.Certificates[0], c.role)
			clients.AddCert(server.Certificates[0].Leaf)
			cfg.TLS.Certificates = []tls.Certificate{own}
		}
		l, err := modbus.NewLine(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := readOne(t, l, b.Devices[0], "power")
		switch {
		case c.want == "" && r.Err != nil:
			t.Errorf("role %q: %v", c.role, r.Err)
		case c.want != "" && (devices.Cause(r.Err) != "illegal function" || !strings.Contains(r.Err.Error(), c.want)):
			t.Errorf("role %q: %v, want %q", c.role, r.Err, c.want)
		}
		l.Close()
	}
}

// clientCertificate is one with a role, signed by an authority.
func clientCertificate(t *testing.T, by tls.Certificate, role string) tls.Certificate {
	t.Helper()
	value, err := asn1.MarshalWithParams(role, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	c := ownCertificate().Certificates[0]
	template := *c.Leaf
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	template.ExtraExtensions = []pkix.Extension{{Id: modbus.RoleOID, Value: value}}
	der, err := x509.CreateCertificate(nil, &template, by.Leaf, template.PublicKey, by.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.PrivateKey}
}

func TestPairsThatNobodySpeaks(t *testing.T) {
	devs := []*mapping.Device{meter(1).device("bus")}
	for _, b := range []Bus{
		{Kind: TCP, Carrier: Line}, {Kind: RTU, Carrier: Encrypted}, {Kind: ASCII, Carrier: Datagrams}, {Kind: Lines, Carrier: Datagrams},
		{Kind: TCP, Carrier: Encrypted}, {Kind: 9}, {Carrier: 9},
	} {
		b.Name, b.Devices = "bus", devs
		if _, err := New(Config{Buses: []Bus{b}}); err == nil {
			t.Errorf("%v on %v was taken", b.Kind, b.Carrier)
		}
	}
	s, err := New(Config{Buses: []Bus{{Name: "bus", Kind: TCP, Listen: "192.0.2.1:1", Carrier: Datagrams, Devices: devs}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || errors.Is(err, devices.ErrPort) {
		t.Errorf("an address of another machine: %v", err)
	}
}
