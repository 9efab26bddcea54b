package broker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho" // the client library that the bridges use

	"edgegateway/broker/packet"
)

// mosquitto runs one of mosquitto's programs against the broker at addr.
func mosquitto(t *testing.T, addr, program string, args ...string) *exec.Cmd {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-oL", program, "-h", host, "-p", port}, args...) // its output line by line
	return exec.CommandContext(t.Context(), "stdbuf", args...)
}

func mosquittoPub(t *testing.T, addr string, args ...string) {
	t.Helper()
	if out, err := mosquitto(t, addr, "mosquitto_pub", args...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub %.100q: %v\n%.1000s", args, err, out)
	}
}

// A listener is a running mosquitto_sub.
type listener struct {
	t     *testing.T
	lines *bufio.Scanner
	cmd   *exec.Cmd
}

// mosquittoSub returns when the subscription is confirmed.
func mosquittoSub(t *testing.T, addr string, args ...string) *listener {
	t.Helper()
	args = append([]string{"-d", "-F", "=%t %q %r %p"}, args...)
	cmd := mosquitto(t, addr, "mosquitto_sub", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &listener{t, bufio.NewScanner(out), cmd}
	l.lines.Buffer(nil, 1<<20)
	for l.lines.Scan() {
		if strings.Contains(l.lines.Text(), "Subscribed (mid") {
			return l
		}
	}
	t.Fatal("mosquitto_sub ended without a subscription")
	return nil
}

// rest returns the messages until mosquitto_sub ends.
func (l *listener) rest() []string {
	var messages []string
	for l.lines.Scan() {
		if m, ok := strings.CutPrefix(l.lines.Text(), "="); ok {
			messages = append(messages, m)
		}
	}
	if err := l.cmd.Wait(); err != nil {
		l.t.Errorf("mosquitto_sub: %v", err)
	}
	return messages
}

func TestMosquittoClients(t *testing.T) {
	for _, v := range []string{"311", "5"} {
		t.Run(v, func(t *testing.T) {
			_, addr := start(t, Config{})
			l := mosquittoSub(t, addr, "-V", v, "-q", "1", "-t", "hall 1/+/#", "-t", "exact/ä ö", "-C", "5")
			mosquittoPub(t, addr, "-V", v, "-t", "hall 1/meter", "-m", "0", "-q", "0")
			mosquittoPub(t, addr, "-V", v, "-t", "hall 1/meter/power", "-m", "1", "-q", "1")
			mosquittoPub(t, addr, "-V", v, "-t", "elsewhere", "-m", "no", "-q", "1")
			mosquittoPub(t, addr, "-V", v, "-t", "exact/ä ö", "-m", "2", "-q", "2", "-r")
			mosquittoPub(t, addr, "-V", v, "-t", "hall 1/big", "-m", strings.Repeat("x", 100_000), "-q", "1")
			will := mosquittoSub(t, addr, "-V", v, "-t", "x", "--will-topic", "hall 1/will", "--will-payload", "3", "--will-qos", "1")
			will.cmd.Process.Kill()
			will.cmd.Wait()
			want := []string{"hall 1/meter 0 0 0", "hall 1/meter/power 1 0 1", "exact/ä ö 1 0 2",
				"hall 1/big 1 0 " + strings.Repeat("x", 100_000), "hall 1/will 1 0 3"}
			if got := l.rest(); !slices.Equal(got, want) {
				t.Errorf("got %.300q", got)
			}
			if got := mosquittoSub(t, addr, "-V", v, "-q", "1", "-t", "#", "-C", "1").rest(); !slices.Equal(got, []string{"exact/ä ö 1 1 2"}) {
				t.Errorf("retained: %q", got)
			}
		})
	}
}

// A mosquitto bridges to the broker as its configuration does by default: with
// the private bit and its state under $SYS.
func TestMosquittoBridge(t *testing.T) {
	b, addr := start(t, Config{})
	got := make(chan string, 1)
	b.Handle("up/#", func(m *Message) { got <- m.Topic + " " + string(m.Payload) })
	b.Publish(&Message{Topic: "down/x", QoS: 1, Retain: true, Payload: []byte("2")})
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	near := port.Addr().String()
	port.Close()
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	_, nearPort, _ := net.SplitHostPort(near)
	text := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\nconnection gw\naddress %s\ntopic # both 1\n", nearPort, addr)
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
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for lines := bufio.NewScanner(log); lines.Scan() && !strings.HasSuffix(lines.Text(), " running"); {
	}
	mosquittoPub(t, near, "-t", "up/y", "-m", "1", "-q", "1")
	if m := <-got; m != "up/y 1" {
		t.Errorf("got %q", m)
	}
	if m := mosquittoSub(t, near, "-q", "1", "-t", "down/#", "-C", "1").rest(); len(m) != 1 || !strings.HasPrefix(m[0], "down/x 1 ") {
		t.Errorf("got %q", m)
	}
}

func TestPahoClient(t *testing.T) {
	_, addr := start(t, Config{})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *paho.Publish, 100)
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(r paho.PublishReceived) (bool, error) { got <- r.Packet; return true, nil }}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "paho", CleanStart: true, KeepAlive: 30}); err != nil {
		t.Fatal(err)
	}
	sub := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "a/+", QoS: 2, RetainAsPublished: true}, {Topic: "a/b/#/c", QoS: 1}}}
	ack, err := client.Subscribe(ctx, sub)
	if ack == nil || ack.Reasons[0] != 2 || ack.Reasons[1] != byte(packet.FilterInvalid) {
		t.Fatalf("%+v, %v", ack, err)
	}
	props := &paho.PublishProperties{ContentType: "text/plain", CorrelationData: []byte{1}, ResponseTopic: "re", User: paho.UserProperties{{Key: "k", Value: "v"}}}
	for i := range 50 {
		resp, err := client.Publish(ctx, &paho.Publish{Topic: "a/b", QoS: byte(i % 3), Retain: i == 49, Payload: fmt.Append(nil, i), Properties: props})
		if err != nil || resp != nil && resp.ReasonCode != 0 {
			t.Fatalf("%d: %+v, %v", i, resp, err)
		}
	}
	for i := range 50 {
		m := <-got
		if string(m.Payload) != fmt.Sprint(i) || m.Retain != (i == 49) || m.Properties.ResponseTopic != "re" || m.Properties.User.Get("k") != "v" {
			t.Errorf("%d: %+v", i, m)
		}
	}
	if err := client.Disconnect(&paho.Disconnect{}); err != nil && err != io.EOF {
		t.Error(err)
	}
}

// mosquitto's programs by TLS, with a certificate of their own, and by a Unix
// socket.
func TestMosquittoTransports(t *testing.T) {
	files := newServerFiles(newAuthority(t))
	_, _, cert, key := files.a.issue("meter 1", time.Hour)
	files.write("client.crt", cert)
	files.write("client.key", key)
	c := files.certificate(func(cfg *CertificateConfig) { cfg.ClientCA.Path = files.path("ca.crt") })
	socket := filepath.Join(t.TempDir(), "mqtt.sock")
	b, addr := start(t, Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: c.Config()}, {Network: "unix", Address: socket}}})
	secure := []string{"--cafile", files.path("ca.crt"), "--cert", files.path("client.crt"), "--key", files.path("client.key")}
	for _, version := range []string{"tlsv1.2", "tlsv1.3"} {
		args := append([]string{"--tls-version", version}, secure...)
		l := mosquittoSub(t, addr, append(args, "-q", "1", "-t", "t", "-C", "2")...)
		mosquittoPub(t, addr, append(args, "-q", "1", "-t", "t", "-m", version)...)
		mosquittoPub(t, addr, "--unix", socket, "-q", "2", "-t", "t", "-m", "by the socket")
		if got := l.rest(); !slices.Equal(got, []string{"t 1 0 " + version, "t 1 0 by the socket"}) {
			t.Errorf("%s: got %q", version, got)
		}
	}
	l := mosquittoSub(t, addr, "--unix", socket, "-q", "1", "-t", "t", "-C", "1")
	mosquittoPub(t, addr, append(secure, "-q", "1", "-t", "t", "-m", "by TLS")...)
	if got := l.rest(); !slices.Equal(got, []string{"t 1 0 by TLS"}) {
		t.Errorf("got %q", got)
	}
	if out, err := mosquitto(t, addr, "mosquitto_pub", "--cafile", files.path("ca.crt"), "-t", "t", "-m", "no", "-q", "1").CombinedOutput(); err == nil {
		t.Errorf("let in without a certificate: %s", out)
	}
	if n := b.Stats().MessagesIn; n != 5 {
		t.Errorf("%d messages came", n)
	}
}
