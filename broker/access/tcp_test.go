package access

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"edgegateway/broker"
	"edgegateway/broker/packet"
)

// serve runs a broker under c on a loopback port.
func serve(t *testing.T, c *Control) (*broker.Broker, string) {
	t.Helper()
	b, err := broker.New(broker.Config{
		Listen:       []broker.Listen{{Network: "tcp", Address: "127.0.0.1:0"}},
		Authenticate: c.Authenticate, Allow: c.Allow, AllowAll: c.AllowAll,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return b, b.Addr(0).String()
}

// A guest is a client of the broker.
type guest struct {
	t    *testing.T
	conn net.Conn
	in   packet.Reader
}

func visit(t *testing.T, addr, user, password string, change ...func(*packet.Connect)) (*guest, packet.Reason) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	g := &guest{t, conn, packet.Reader{Src: bufio.NewReader(conn), Version: packet.V5}}
	p := &packet.Connect{Version: packet.V5, ClientID: "id of " + user, CleanStart: true, HasUser: user != "", User: user, HasPassword: password != "", Password: []byte(password)}
	for _, fn := range change {
		fn(p)
	}
	g.send(p)
	return g, next[*packet.Connack](g).Reason
}

func enter(t *testing.T, addr, user, password string, change ...func(*packet.Connect)) *guest {
	t.Helper()
	g, reason := visit(t, addr, user, password, change...)
	if reason != packet.Success {
		t.Fatalf("%q is not let in: %v", user, reason)
	}
	return g
}

func (g *guest) send(p packet.Packet) {
	g.t.Helper()
	raw, err := p.Append(nil, packet.V5)
	if err == nil {
		_, err = g.conn.Write(raw)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

func next[T packet.Packet](g *guest) T {
	g.t.Helper()
	p, _, err := g.in.Read()
	got, ok := p.(T)
	if err != nil || !ok {
		g.t.Fatalf("got %T %+v, %v", p, p, err)
	}
	return got
}

func (g *guest) publish(topic string, retain bool) packet.Reason {
	g.t.Helper()
	g.send(&packet.Publish{Topic: topic, QoS: 1, ID: 7, Retain: retain, Payload: []byte(topic)})
	return next[*packet.Ack](g).Reason
}

func (g *guest) subscribe(filters ...string) (reasons []packet.Reason) {
	g.t.Helper()
	p := &packet.Subscribe{ID: 1}
	for _, f := range filters {
		p.Filters = append(p.Filters, packet.Filter{Filter: f})
	}
	g.send(p)
	return next[*packet.SubAck](g).Reasons
}

// topics reads messages until one of the topic last.
func (g *guest) topics(last string) (topics []string) {
	g.t.Helper()
	for {
		m := next[*packet.Publish](g)
		topics = append(topics, m.Topic)
		if m.Topic == last {
			return topics
		}
	}
}

func TestBrokerUnderControl(t *testing.T) {
	policy := Policy{
		Passwords: passwordsOf("panel", "p", "writer", "w"),
		Rules: Rules{
			"panel":  {{"plant/#", Read, true}, {"plant/secret/#", Deny, true}, {"end", Read, true}},
			"writer": {{"#", Read | Write, true}, {"locked/#", Deny, true}},
		},
	}
	c := New(policy)
	b, addr := serve(t, c)
	for _, bad := range [][2]string{{"panel", "x"}, {"stranger", "p"}, {"panel", ""}, {"panel", "p"}} { // the last within the back-off
		if _, reason := visit(t, addr, bad[0], bad[1]); reason != packet.BadUserOrPassword {
			t.Errorf("%q: %v", bad, reason)
		}
	}
	if _, reason := visit(t, addr, "", ""); reason != packet.NotAuthorized {
		t.Errorf("anonymous: %v", reason)
	}
	c.attempts.clear(attempt{"panel", "127.0.0.1"})

	writer := enter(t, addr, "writer", "w")
	for topic, want := range map[string]packet.Reason{"plant/kept": packet.Success, "plant/secret/kept": packet.Success, "locked/kept": packet.NotAuthorized} {
		if reason := writer.publish(topic, true); reason != want {
			t.Errorf("publish %s: %v", topic, reason)
		}
	}
	panel := enter(t, addr, "panel", "p")
	if reason := panel.publish("plant/x", false); reason != packet.NotAuthorized {
		t.Errorf("the panel publishes: %v", reason)
	}
	if got := fmt.Sprint(panel.subscribe("other", "plant/secret/a", "$SYS/#", "+/+", "end")); got != "[not authorized not authorized not authorized success success]" {
		t.Errorf("subscribe: %s", got)
	}
	if _, reason := visit(t, addr, "panel", "p", will("plant/will")); reason != packet.NotAuthorized {
		t.Errorf("will: %v", reason)
	}
	dies := enter(t, addr, "writer", "w", will("plant/will"), id("dies"))
	dies.conn.Close()
	if got := panel.topics("plant/will"); !slices.Equal(got, []string{"plant/kept", "plant/will"}) {
		t.Errorf("retained and will: %q", got)
	}
	for _, topic := range []string{"plant/a", "plant/secret", "other/a", "plant/secret/b", "end"} {
		writer.publish(topic, false)
	}
	if got := panel.topics("end"); !slices.Equal(got, []string{"plant/a", "end"}) {
		t.Errorf("messages: %q", got)
	}

	narrower := policy
	narrower.Rules = Rules{"panel": policy.Rules["panel"], "writer": {{"plant/+", Read | Write, true}, {"end", Write, true}}}
	b.Review(c.Set(narrower)) // nobody holds what they may not have
	late := enter(t, addr, "writer", "w", will("elsewhere"), func(p *packet.Connect) { p.Will.Topic = "plant/will" }, id("late"))
	narrower.Rules["writer"] = []Rule{{"end", Write, true}}
	narrower.Passwords = passwordsOf("writer", "w")
	b.Review(c.Set(narrower))
	if d := next[*packet.Disconnect](panel); d.Reason != packet.AdministrativeAction {
		t.Errorf("panel: %v", d.Reason)
	}
	if _, reason := visit(t, addr, "panel", "p"); reason != packet.BadUserOrPassword {
		t.Errorf("the panel after it was taken out: %v", reason)
	}
	watch := func() *guest {
		narrower.Passwords = passwordsOf("writer", "w", "watch", "x")
		narrower.Rules["watch"] = []Rule{{"#", Read, true}}
		b.Review(c.Set(narrower))
		g := enter(t, addr, "watch", "x")
		g.subscribe("plant/will", "end")
		return g
	}()
	refused := b.Stats().Dropped["refused"]
	late.conn.Close() // its will is no longer allowed when it is due
	for deadline := time.Now().Add(10 * time.Second); b.Stats().Dropped["refused"] == refused; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the will was not refused")
		}
	}
	writer.publish("end", false)
	if got := watch.topics("end"); !slices.Equal(got, []string{"end"}) {
		t.Errorf("a will came that was not allowed: %q", got)
	}
}

func will(topic string) func(*packet.Connect) {
	return func(p *packet.Connect) { p.Will = &packet.Will{Topic: topic, Payload: []byte("x")} }
}

func id(id string) func(*packet.Connect) { return func(p *packet.Connect) { p.ClientID = id } }

// mosquitto reads the file that we write, and we read the one that
// mosquitto_passwd writes, in both of its ways.
func TestPasswordFileOfMosquitto(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	data, err := SetPassword(nil, "ours", []byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-b", file, "theirs", "battery staple"}, {"-H", "sha512", "-b", file, "old", "x y"}} {
		if out, err := exec.Command("mosquitto_passwd", args...).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
	}
	if data, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	p, faults := ParsePasswords(file, data)
	if faults != nil {
		t.Fatal(faults)
	}
	c := New(Policy{Passwords: p})
	_, ours := serve(t, c)
	theirs := runMosquitto(t, file)
	for user, password := range map[string]string{"ours": "correct horse", "theirs": "battery staple", "old": "x y"} {
		for where, addr := range map[string]string{"the gateway's broker": ours, "mosquitto": theirs} {
			if out, err := pub(addr, user, password); err != nil {
				t.Errorf("%s at %s: %v: %s", user, where, err, out)
			}
			if out, err := pub(addr, user, "wrong"); err == nil {
				t.Errorf("%s gets into %s with a wrong password: %s", user, where, out)
			}
		}
	}
}

// The rights that an ACL file gives are the same here and in mosquitto.
func TestACLFileOfMosquitto(t *testing.T) {
	dir := t.TempDir()
	passwords, acl := filepath.Join(dir, "passwd"), filepath.Join(dir, "acl")
	text := "topic read public/#\nuser panel\ntopic read plant/#\ntopic deny plant/secret/#\ntopic write plant/+/_set\ntopic with-write\npattern readwrite of/%u/%c\n"
	data, err := SetPassword(nil, "panel", []byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{passwords: data, acl: []byte(text)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := ParsePasswords("", data)
	rules, faults := ParseACL("", []byte(text))
	if faults != nil {
		t.Fatal(faults)
	}
	_, ours := serve(t, New(Policy{Passwords: p, Rules: rules}))
	theirs := runMosquitto(t, passwords, "acl_file "+acl)
	for topic, want := range map[string]packet.Reason{
		"plant/a/_set": 0, "plant/a": packet.NotAuthorized, "plant/secret/_set": packet.NotAuthorized, "with-write": 0,
		"of/panel/id of panel": 0, "of/panel/other": packet.NotAuthorized, "public/a": packet.NotAuthorized, "elsewhere": packet.NotAuthorized,
	} {
		for where, addr := range map[string]string{"the gateway's broker": ours, "mosquitto": theirs} {
			got := enter(t, addr, "panel", "p").publish(topic, false)
			if got == packet.NoMatchingSubscribers {
				got = packet.Success
			}
			if got != want {
				t.Errorf("%s to %q: %v", where, topic, got)
			}
		}
	}
}

func pub(addr, user, password string) ([]byte, error) {
	host, port, _ := net.SplitHostPort(addr)
	return exec.Command("mosquitto_pub", "-V", "5", "-h", host, "-p", port, "-u", user, "-P", password, "-q", "1", "-t", "t", "-m", "x").CombinedOutput()
}

// runMosquitto runs a mosquitto with a password file until the test ends.
func runMosquitto(t *testing.T, passwords string, more ...string) string {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := port.Addr().String()
	port.Close()
	_, number, _ := net.SplitHostPort(addr)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("user root\nlistener %s 127.0.0.1\nallow_anonymous false\npassword_file %s\n%s\n", number, passwords, strings.Join(more, "\n"))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "mosquitto", "-c", conf)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(log); lines.Scan(); {
		if strings.HasSuffix(lines.Text(), " running") {
			go io.Copy(io.Discard, log)
			return addr
		}
	}
	t.Fatal("mosquitto does not run")
	return ""
}
