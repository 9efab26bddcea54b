package bridge

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"

	"edgegateway/broker"
)

func probeWith(t *testing.T, cfg Config, opts ProbeOptions) (steps []Step, ok bool) {
	t.Helper()
	opts.Clock = func() broker.Clock { return testClock }
	cfg.Name, cfg.ClientID, cfg.QoS = "cloud", "gw", 1
	cfg.WriteTimeout, cfg.ConnectTimeout = time.Second, 2*time.Second
	ok, err := Probe(t.Context(), cfg, opts, func(s Step) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	return steps, ok
}

// Each step of each transport is told, also through a proxy and for each URL,
// and the first that fails is the last.
func TestProbeWalksEachStep(t *testing.T) {
	ca := newAuthority(t)
	addrs := farBroker(t, ca)
	proxy := startProxy(t, "http", &testProxy{}).addr
	trusting := &tls.Config{RootCAs: ca.pool, NextProtos: []string{"mqtt"}}
	closed := fmt.Sprintf("localhost:%d", freePort(t))
	for _, c := range []struct {
		name  string
		cfg   Config
		opts  ProbeOptions
		steps string
		ok    bool
		last  string // what the last one says
	}{
		{"plain", Config{URLs: []string{"tcp://" + addrs[0]}}, ProbeOptions{}, "DNS TCP CONNECT", true, "20 messages in flight"},
		{"as far as the connection", Config{URLs: []string{"tls://" + addrs[1]}, TLS: trusting}, ProbeOptions{NoLogin: true}, "DNS TCP TLS", true, "certificate for"},
		{"wss through a proxy, 3.1.1", Config{URLs: []string{"wss://" + addrs[3]}, Proxy: "http://" + proxy, TLS: trusting, Version: MQTT311, Receive: []Rule{{"cmd/+/_set", "gw/+/_set"}}},
			ProbeOptions{Publish: []string{"a"}}, "DNS TCP proxy TLS WebSocket CONNECT SUBSCRIBE PUBLISH", true, "PUBACK after"},
		{"two URLs", Config{URLs: []string{"tcp://" + closed, "tcp://" + addrs[0]}}, ProbeOptions{}, "DNS TCP DNS TCP CONNECT", false, `as "gw-test"`},
		{"proxy that is not there", Config{URLs: []string{"tcp://" + addrs[0]}, Proxy: "http://" + closed}, ProbeOptions{}, "DNS TCP", false, "the proxy " + closed + " refused"},
		{"wrong path", Config{URLs: []string{"ws://" + addrs[2] + "/x"}}, ProbeOptions{}, "DNS TCP WebSocket", false, "is the path in url right"},
		{"topic that the preset forbids", Config{URLs: []string{"tcp://" + addrs[0]}, Limits: Limits{TopicLevels: 2}}, ProbeOptions{Publish: []string{"a/b/c"}}, "DNS TCP CONNECT PUBLISH", false, "3 levels"},
		{"no ALPN there", Config{URLs: []string{"tls://" + addrs[1]}, TLS: trusting}, ProbeOptions{SameID: true}, "DNS TCP TLS CONNECT", true, `as "gw"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			steps, ok := probeWith(t, c.cfg, c.opts)
			var names []string
			for _, s := range steps {
				name, _, _ := strings.Cut(s.Name, " ")
				names = append(names, name)
				if s.OK != (s.Trouble == "") {
					t.Errorf("step %+v", s)
				}
			}
			last := steps[len(steps)-1]
			if got := strings.Join(names, " "); got != c.steps || ok != c.ok || !strings.Contains(last.Found+last.Trouble, c.last) {
				t.Errorf("%s, %t: %+v", got, ok, last)
			}
		})
	}
}

// Nothing of a test lasts, unless it is as the bridge itself: then it leaves
// the bridge's session as it was, and takes no command away.
func TestProbeLeavesNothing(t *testing.T) {
	for _, same := range []bool{false, true} {
		for _, version := range []Version{MQTT5, MQTT311} {
			t.Run(fmt.Sprint(same, version), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					up, up3 := &upstream{}, &upstream3{}
					b, err := newBridge(Config{Name: "cloud", URLs: []string{"tcp://h"}, ClientID: "gw", Version: version, Receive: []Rule{{"cmd/+/_set", "gw/+/_set"}}}, nobody{}, func() broker.Clock { return testClock }, nil)
					if err != nil {
						t.Fatal(err)
					}
					b.fleeting = !same
					p := &prober{b: b, opts: ProbeOptions{SameID: same}, tell: func(s Step) {
						if !s.OK {
							t.Errorf("%+v", s)
						}
						if strings.HasPrefix(s.Name, "SUBSCRIBE") { // a command that waits there comes
							if version == MQTT5 {
								up.conns[0].send(command(1, "cmd/a/_set"))
							} else {
								up3.conns[0].send(command3(1, "cmd/a/_set"))
							}
							synctest.Wait()
						}
					}}
					if version == MQTT5 {
						c, _ := up.dial(t.Context(), b.urls[0])
						p.talk(t.Context(), c)
						synctest.Wait()
						connect := up.connects[0]
						if keep := connect.Properties.SessionExpiryInterval != nil; connect.CleanStart == same || keep != same || connect.WillFlag {
							t.Errorf("CONNECT %v", connect)
						}
						if !slices.ContainsFunc(up.goodbyes, func(d *packets.Disconnect) bool { return d.ReasonCode == 0 }) || len(up.acks) > 0 {
							t.Errorf("DISCONNECT %v, acknowledged %v", up.goodbyes, up.acks)
						}
						up.conns[0].Close()
					} else {
						c, _ := up3.dial(t.Context(), b.urls[0])
						p.talk(t.Context(), c)
						synctest.Wait()
						if connect := up3.connects[0]; connect.CleanSession == same || connect.WillFlag || up3.goodbyes != 1 || len(up3.acks) > 0 {
							t.Errorf("CONNECT %v, acknowledged %v", connect, up3.acks)
						}
						up3.conns[0].Close()
					}
					time.Sleep(time.Minute)
				})
			})
		}
	}
}

// refuser is a far broker that closes the connection upon a PUBLISH, seen at
// once, after an answer if it gives one.
type refuser struct {
	client
	acks chan ack
	code byte // of the answer; 0: there is none
	gone chan struct{}
}

func (r *refuser) publish(f *flight, _ *paho.Publish) error {
	if r.code > 0 {
		r.acks <- ack{f, r.code}
	}
	close(r.gone)
	return io.EOF
}
func (r *refuser) down() <-chan struct{} { return r.gone }
func (r *refuser) cause() error          { return io.EOF }

// A refusal counts, not that the connection was closed upon it; without one
// the closing is told of as what it probably is.
func TestProbeTellsRefusalFromLoss(t *testing.T) {
	for code, want := range map[byte]string{
		0x87: "the far broker says not authorised",
		0:    "as some do with topics that they do not permit: h closed the connection",
	} {
		for range 20 { // a select with two ways takes either
			r := &refuser{acks: make(chan ack, 1), code: code, gone: make(chan struct{})}
			var step Step
			p := &prober{b: &Bridge{cfg: Config{ConnectTimeout: time.Second}}, host: "h", tell: func(s Step) { step = s }}
			l := &link{client: r, acks: r.acks, host: "h", limits: limits{qos: 1}}
			p.try(t.Context(), "PUBLISH a", func(ctx context.Context) (string, error) { return p.publish(ctx, l, "a") })
			if step.OK || !strings.Contains(step.Trouble, want) {
				t.Fatalf("%q, want %q", step.Trouble, want)
			}
		}
	}
}
