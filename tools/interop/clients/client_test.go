package clients

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

// A message is one in the words of all libraries. What is zero was not there.
type message struct {
	Topic   string `json:"topic"`
	Payload []byte `json:"payload"`
	QoS     byte   `json:"qos"`
	Retain  bool   `json:"retain,omitempty"`

	// MQTT 5:
	ContentType   string      `json:"contentType,omitempty"`
	ResponseTopic string      `json:"responseTopic,omitempty"`
	Correlation   []byte      `json:"correlation,omitempty"`
	Expiry        uint32      `json:"expiry,omitempty"` // seconds
	User          [][2]string `json:"user,omitempty"`
	Alias         uint16      `json:"alias,omitempty"`        // as it is published, without a topic when it is known; as it arrives, where the library tells
	Subscription  int         `json:"subscription,omitempty"` // only as it arrives
}

func (m message) String() string {
	return fmt.Sprintf("%s %q qos %d retain %v [%s %s %q %d %q %d]", m.Topic, clip(m.Payload), m.QoS, m.Retain,
		m.ContentType, m.ResponseTopic, m.Correlation, m.Expiry, m.User, m.Subscription)
}

func clip(payload []byte) string { return fmt.Sprintf("%.40s", payload) }

// An inbox holds what arrived at a client.
type inbox struct {
	mu  sync.Mutex
	all []message
}

func (in *inbox) add(m message) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.all = append(in.all, m)
}

func (in *inbox) messages() []message {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.all)
}

func (in *inbox) len() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.all)
}

// take waits for n messages and takes all there are.
func (in *inbox) take(t *testing.T, n int) []message {
	t.Helper()
	eventually(t, fmt.Sprintf("%d messages", n), func() bool { return in.len() >= n })
	in.mu.Lock()
	defer in.mu.Unlock()
	all := in.all
	in.all = nil
	return all
}

// options say how a client connects.
type options struct {
	URL         string   `json:"url"`
	ID          string   `json:"id"`
	User        string   `json:"user,omitempty"`
	Password    string   `json:"password,omitempty"`
	Certificate bool     `json:"certificate,omitempty"` // it shows one
	Session     bool     `json:"session,omitempty"`     // that outlives its connection
	Again       bool     `json:"again,omitempty"`       // it connects again when its connection is lost
	Aliases     int      `json:"aliases,omitempty"`     // that it takes of the broker
	Will        *message `json:"will,omitempty"`
}

// A subscription is one filter with its options.
type subscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
	ID     int    `json:"id,omitempty"` // MQTT 5
}

// refused is the reason code of a CONNACK that says no.
type refused byte

func (r refused) Error() string { return fmt.Sprintf("refused with reason %#x", byte(r)) }

// A client is a connection of a library. Its methods return when the broker
// has answered.
type client interface {
	// connect tells whether the broker still had a session. The error is a
	// refused if the broker says no.
	connect(o options) (present bool, err error)
	// subscribe returns the reason code of the SUBACK.
	subscribe(s subscription) (reason byte, err error)
	// publish hands over the messages in their order and returns the reason
	// codes of their acknowledgements, 0 for QoS 0.
	publish(m ...message) (reasons []byte, err error)
	disconnect() error
}

// A kind is a library in one version of the protocol.
type kind struct {
	name       string
	v5         bool
	transports []string
	new        func(t *testing.T, in *inbox) client

	v31        bool // where CONNACK tells of no session, and SUBACK cannot refuse
	wholeWill  bool // a will may have all properties
	readsAlias bool // it takes aliases of the broker, at QoS 0 and 1
	oncePerID  bool // it knows a message of QoS 2 that comes again
	inOrder    bool // what it is given while it resumes stays behind what it resumes
}

// What a library lacks is its own fault and says why.
var kinds = []kind{
	// It writes of a will's properties only those that a CONNECT may have too:
	// packets/connect.go packs them as CONNECT's own. It knows no aliases of a broker.
	{name: "paho.golang-5", v5: true, transports: transports[:4], new: newPahoV5, oncePerID: true, inOrder: true},
	// It hands over each PUBLISH of QoS 2 that comes, be it a repetition. It is
	// connected before it resumes (client.go, startCommsWorkers), and its tokens are
	// complete when it does (messageids.go, claimID): what it is given then overtakes
	// what it sends again.
	{name: "paho.mqtt.golang-3.1.1", transports: transports, new: newPahoV3(4)},
	{name: "paho.mqtt.golang-3.1", v31: true, transports: transports[:1], new: newPahoV3(3)},
	{name: "mqtt.js-3.1.1", transports: transports, new: newMQTTJS(4), oncePerID: true, inOrder: true},
	// It stores a PUBLISH of QoS 2 as it came, and hands it over without its
	// topic if that was an alias (lib/handlers/publish.js).
	{name: "mqtt.js-5", v5: true, transports: transports, new: newMQTTJS(5), wholeWill: true, readsAlias: true, oncePerID: true, inOrder: true},
}

// open connects a client and disconnects it when the test ends.
func (k kind) open(t *testing.T, o options) (client, *inbox) {
	t.Helper()
	in := new(inbox)
	c := k.new(t, in)
	if _, err := c.connect(o); err != nil {
		t.Fatalf("%s connects to %s: %v", k.name, o.URL, err)
	}
	t.Cleanup(func() { c.disconnect() })
	return c, in
}

// subscribe subscribes c and fails unless the broker grants what is asked for.
func subscribe(t *testing.T, c client, s subscription) {
	t.Helper()
	if reason, err := c.subscribe(s); err != nil || reason != s.QoS {
		t.Fatalf("subscribe to %q with QoS %d: reason %#x, %v", s.Filter, s.QoS, reason, err)
	}
}

// publish publishes by c and fails unless everything is accepted.
func publish(t *testing.T, c client, m ...message) {
	t.Helper()
	reasons, err := c.publish(m...)
	if err != nil || len(reasons) != len(m) {
		t.Fatalf("publish: %d of %d reasons, %v", len(reasons), len(m), err)
	}
	for i, reason := range reasons {
		if reason != 0 && reason != 0x10 { // nobody subscribes
			t.Fatalf("publish %v: reason %#x", m[i], reason)
		}
	}
}

// numbered are n messages whose payloads are 1 to n.
func numbered(topic string, qos byte, n int) (all []message) {
	for i := range n {
		all = append(all, message{Topic: topic, Payload: fmt.Append(nil, i+1), QoS: qos})
	}
	return all
}

// same fails unless exactly the messages wanted arrived, in their order.
func same(t *testing.T, got, want []message) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("only %d of %d messages arrived; missing is %v", len(got), len(want), want[i])
			return
		case i >= len(want):
			t.Errorf("%d messages arrived instead of %d; one too many is %v", len(got), len(want), got[i])
			return
		case got[i].String() != want[i].String() || string(got[i].Payload) != string(want[i].Payload):
			t.Errorf("message %d is  %v\nand should be %v", i+1, got[i], want[i])
			return
		}
	}
}
