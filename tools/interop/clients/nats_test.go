package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsServer builds NATS's server once.
var natsServer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "nats-server")
	out, err := exec.Command("go", "build", "-o", path, "github.com/nats-io/nats-server/v2").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build nats-server: %v\n%s", err, out)
	}
	return path, err
})

// A fleetPage is what docs/fleet.md shows, by the first line of a block or the
// kind of it.
type fleetPage map[string]string

func readFleetPage(t *testing.T) fleetPage {
	t.Helper()
	text, err := os.ReadFile("../../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	page := make(fleetPage)
	for _, block := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		name := block[1]
		if first, _, _ := strings.Cut(block[2], "\n"); strings.HasPrefix(first, "# /") {
			name = filepath.Base(first)
		}
		page[name] = strings.ReplaceAll(block[2], "plant-a", "gw")
	}
	for _, name := range []string{"nats.conf", "users.conf", "gateway.toml", "json"} {
		if page[name] == "" {
			t.Fatalf("docs/fleet.md shows no %s", name)
		}
	}
	return page
}

const natsPassword = "secret-of-the-archive"

// A cluster is three NATS servers that docs/fleet.md sets up.
type cluster struct {
	t     *testing.T
	dir   string
	hosts [3]string
	nodes [3]*process
}

func newCluster(t *testing.T, page fleetPage) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	for i := range c.hosts {
		c.hosts[i] = newHost()
	}
	users := regexp.MustCompile(`password: "[^"]*"`).ReplaceAllString(page["users.conf"], fmt.Sprintf("password: %q", natsPassword))
	writeFile(t, filepath.Join(c.dir, "users.conf"), users)
	for i, host := range c.hosts {
		writeFile(t, c.conf(i), c.here(strings.NewReplacer(
			`server_name: "nats1"`, fmt.Sprintf(`server_name: "nats%d"`, i+1),
			"0.0.0.0", host, "127.0.0.1", host, "/var/lib/nats", filepath.Join(c.dir, fmt.Sprint("store", i+1)),
			"/etc/nats/server", keys.path("broker"), "/etc/nats/ca.crt", keys.path("ca.crt"),
		).Replace(page["nats.conf"])))
	}
	for i := range c.nodes {
		c.run(i)
	}
	c.healthy(0, 1, 2)
	return c
}

func (c *cluster) conf(i int) string { return filepath.Join(c.dir, fmt.Sprintf("nats%d.conf", i+1)) }

// here replaces the names of the page by addresses of this machine.
func (c *cluster) here(text string) string {
	for i, host := range c.hosts {
		text = strings.ReplaceAll(text, fmt.Sprintf("nats%d.example.com", i+1), host)
	}
	return text
}

func (c *cluster) run(i int) {
	c.t.Helper()
	path, err := natsServer()
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[i] = start(c.t, path, "-c", c.conf(i))
}

// healthy waits until servers say that they are, and have caught up.
func (c *cluster) healthy(nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		eventually(c.t, fmt.Sprintf("nats%d is healthy", i+1), func() bool {
			select {
			case <-c.nodes[i].done:
				c.t.Fatalf("nats%d ended:\n%s", i+1, c.nodes[i].out)
			default:
			}
			r, err := http.Get("http://" + net.JoinHostPort(c.hosts[i], "8222") + "/healthz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == http.StatusOK
		})
	}
}

// archive connects a reader of the data.
func (c *cluster) archive() jetstream.JetStream {
	c.t.Helper()
	var urls []string
	for _, host := range c.hosts {
		urls = append(urls, "tls://"+net.JoinHostPort(host, "4222"))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.UserInfo("archive", natsPassword), nats.RootCAs(keys.path("ca.crt")),
		nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	return js
}

// consumer makes the one of the page, once a majority is there.
func (c *cluster) consumer(js jetstream.JetStream, page fleetPage) (found jetstream.Consumer) {
	c.t.Helper()
	var cfg jetstream.ConsumerConfig
	if err := json.Unmarshal([]byte(page["json"]), &cfg); err != nil {
		c.t.Fatal(err)
	}
	var err error
	eventually(c.t, "the consumer of the page", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		found, err = js.CreateOrUpdateConsumer(ctx, "$MQTT_msgs", cfg)
		return err == nil
	})
	return found
}

// A stored message is one in the stream.
type stored struct {
	topic string
	n     int
}

// read takes all that a consumer is owed, in the order of the stream.
func (c *cluster) read(cons jetstream.Consumer) (all []stored, again int) {
	c.t.Helper()
	bySeq := make(map[uint64]stored)
	first, last := ^uint64(0), uint64(0)
	eventually(c.t, "all is read", func() bool {
		batch, err := cons.Fetch(1000, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return false
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				c.t.Fatal(err)
			}
			n, _ := strconv.Atoi(string(m.Data()))
			seq := meta.Sequence.Stream
			if _, ok := bySeq[seq]; ok {
				again++
			}
			bySeq[seq] = stored{m.Subject(), n}
			first, last = min(first, seq), max(last, seq)
			m.Ack()
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		info, err := cons.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0
	})
	for seq := first; seq <= last && last > 0; seq++ {
		if m, ok := bySeq[seq]; ok && strings.Contains(m.topic, ".site.") {
			all = append(all, m)
		}
	}
	return all, again
}

// leader returns which server leads the stream of messages.
func (c *cluster) leader(js jetstream.JetStream) (node int) {
	c.t.Helper()
	eventually(c.t, "the stream has a leader", func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, "$MQTT_msgs")
		if err != nil || s.CachedInfo().Cluster.Leader == "" {
			return false
		}
		fmt.Sscanf(s.CachedInfo().Cluster.Leader, "nats%d", &node)
		return true
	})
	return node - 1
}

// A feeder publishes numbers to the gateway, several topics in turn, with QoS
// 1, and again what was not acknowledged.
type feeder struct {
	stop  context.CancelFunc
	done  chan struct{}
	mu    sync.Mutex
	acked int
}

const feederTopics = 4

func newFeeder(t *testing.T, addr string, every time.Duration) *feeder {
	ctx, stop := context.WithCancel(t.Context())
	f := &feeder{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for ctx.Err() == nil {
			f.session(ctx, addr, every)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() { stop(); <-f.done })
	return f
}

func (f *feeder) session(ctx context.Context, addr string, every time.Duration) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	client := paho.NewClient(paho.ClientConfig{Conn: conn})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "feeder", CleanStart: true, KeepAlive: 30}); err != nil {
		return
	}
	for ctx.Err() == nil {
		n := f.count()
		p := &paho.Publish{Topic: fmt.Sprint("site/log", n%feederTopics), QoS: 1, Payload: fmt.Append(nil, n/feederTopics+1)}
		if r, err := client.Publish(ctx, p); err != nil || r.ReasonCode >= 0x80 {
			return
		}
		f.mu.Lock()
		f.acked++
		f.mu.Unlock()
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

func (f *feeder) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked
}

func (f *feeder) more(t *testing.T, n int) {
	t.Helper()
	want := f.count() + n
	eventually(t, "acknowledgements of the gateway", func() bool { return f.count() >= want })
}

// An uplink is what `gateway status --json` says of the bridge.
type uplink struct {
	State      string `json:"state"`
	URL        string `json:"url"`
	LastError  string `json:"last_error"`
	Sent       int    `json:"sent"`
	Acked      int    `json:"acked"`
	Reconnects int    `json:"reconnects"`
	Backlog    map[string]struct {
		Records int `json:"records"`
	} `json:"backlog"`
}

func (u *uplink) waiting() (n int) {
	for _, b := range u.Backlog {
		n += b.Records
	}
	return n
}

func (g *gateway) command(args ...string) (string, error) {
	cmd := exec.Command(binary, append(args, "--config", g.dir, "--state", filepath.Join(g.dir, "state"))...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (g *gateway) uplink() (u uplink) {
	g.t.Helper()
	out, err := g.command("status", "--json")
	if err != nil {
		g.t.Fatalf("gateway status: %v\n%s", err, out)
	}
	var status struct {
		Bridges []uplink `json:"bridges"`
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Bridges) != 1 {
		g.t.Fatalf("gateway status: %v\n%s", err, out)
	}
	return status.Bridges[0]
}

// sends waits until no more messages than that wait for the bridge.
func (g *gateway) sends(most int) {
	g.t.Helper()
	eventually(g.t, "what waited has gone upstream", func() bool { u := g.uplink(); return u.State == "up" && u.waiting() <= most })
}

// newNATSGateway runs a gateway with the bridge of the page.
func newNATSGateway(t *testing.T, c *cluster, page fleetPage) *gateway {
	t.Helper()
	bridge := strings.NewReplacer(`"nats-ca.crt"`, strconv.Quote(keys.path("ca.crt")),
		`"${cred:nats.crt}"`, strconv.Quote(keys.path("gw.crt")), `"${cred:nats.key}"`, strconv.Quote(keys.path("gw.key"))).Replace(page["gateway.toml"])
	return newGateway(t, c.here(bridge))
}

// TestNATSCluster kills the servers of the page in turn, and the gateway once,
// while a client publishes to the gateway. What the gateway acknowledged is in
// the stream.
func TestNATSCluster(t *testing.T) {
	t.Parallel()
	page := readFleetPage(t)
	c := newCluster(t, page)
	g := newNATSGateway(t, c, page)
	js := c.archive()
	eventually(t, "the uplink", func() bool { return g.uplink().State == "up" })
	cons := c.consumer(js, page)

	_, addr, _ := strings.Cut(g.urls["tcp"], "://")
	f := newFeeder(t, addr, 5*time.Millisecond)
	lost := 0 // connections
	begin := time.Now()
	kills := 3
	if os.Getenv("GATEWAY_LONG") != "" {
		kills = 12
	}
	for round := range kills {
		f.more(t, 100)
		g.sends(100)
		var victims []int
		switch {
		case round%6 == 5: // all at once
			victims = []int{0, 1, 2}
		case round%3 == 0: // the one that the gateway talks to
			host, _, _ := net.SplitHostPort(g.uplink().URL)
			victims = []int{slices.Index(c.hosts[:], host)}
		case round%3 == 1:
			victims = []int{c.leader(js)}
		default:
			victims = []int{round / 3 % 3}
		}
		t.Logf("%.1f s: kill servers %d, of which %d leads; the gateway is at %s", time.Since(begin).Seconds(), victims, c.leader(js), g.uplink().URL)
		for _, i := range victims {
			c.nodes[i].kill()
		}
		f.more(t, 100)
		if round == 1 {
			lost += g.uplink().Reconnects + 1
			g.kill()
			g.run()
		}
		for _, i := range victims {
			c.run(i)
		}
		c.healthy(victims...)
	}
	f.stop()
	<-f.done
	g.sends(0)
	lost += g.uplink().Reconnects

	all, again := c.read(cons)
	repeated, late := f.compare(t, all)
	t.Logf("%d acknowledged to the publisher, %d repeated over %d lost connections, %d first came after a later one; the consumer got %d again",
		f.acked, repeated, lost, late, again)
	if most := 20*lost + 1; repeated > most {
		t.Errorf("%d messages were repeated, at most %d may be", repeated, most)
	}
}

// compare looks for what was acknowledged in what is stored. It returns how many
// messages are there again, and how many came after a later one of their topic,
// which NATS does when a leader dies with some on their way: the gateway sends all
// of them again, so that by the last time that each came they are in order.
func (f *feeder) compare(t *testing.T, all []stored) (repeated, late int) {
	t.Helper()
	last := make(map[stored]int)
	latest := make(map[string]int)
	for i, m := range all {
		if _, again := last[m]; again {
			repeated++
		} else if m.n < latest[m.topic] {
			late++
		}
		latest[m.topic] = max(latest[m.topic], m.n)
		last[m] = i
	}
	missing, disorder := 0, 0
	before := make(map[string]int)
	for n := range f.acked {
		m := stored{fmt.Sprint("$MQTT.msgs.plants.gw.site.log", n%feederTopics), n/feederTopics + 1}
		i, ok := last[m]
		if !ok {
			missing++
			continue
		}
		if i < before[m.topic] {
			disorder++
		}
		before[m.topic] = i
	}
	if missing > 0 || len(all) == 0 {
		t.Errorf("%d of %d acknowledged messages are missing", missing, f.acked)
	}
	if disorder > 0 {
		t.Errorf("%d messages came for the last time after a later one of their topic", disorder)
	}
	return repeated, late
}

// TestNATSWithoutMajority has two of three servers away: the gateway says so,
// keeps what it acknowledges, and sends it when one of them is back, with a
// window of one in strict order. And it shows what the page warns of.
func TestNATSWithoutMajority(t *testing.T) {
	t.Parallel()
	page := readFleetPage(t)
	page["gateway.toml"] = strings.Replace(page["gateway.toml"], "replay  =", "window  = 1\nreplay  =", 1)
	c := newCluster(t, page)
	g := newNATSGateway(t, c, page)
	eventually(t, "the uplink", func() bool { return g.uplink().State == "up" })
	cons := c.consumer(c.archive(), page)
	if out, err := g.command("bridge", "test", "nats", "--publish", "plants/another/x"); err != nil || !strings.Contains(out, "does not permit") {
		t.Errorf("gateway bridge test: %v\n%s", err, out)
	}
	eventually(t, "each server has told of a violation", func() bool {
		logged := 0
		for _, n := range c.nodes {
			logged += strings.Count(n.out.String(), "Publish Violation")
		}
		return logged == len(c.nodes)
	})

	_, addr, _ := strings.Cut(g.urls["tcp"], "://")
	f := newFeeder(t, addr, 5*time.Millisecond)
	f.more(t, 100)
	c.nodes[0].kill()
	c.nodes[1].kill()
	eventually(t, "the gateway knows", func() bool {
		u := g.uplink()
		return u.State == "down" && strings.Contains(u.LastError, "no majority of its servers")
	})
	f.more(t, 100)
	out, err := g.command("bridge", "test", "nats")
	if t.Logf("gateway bridge test without a majority:\n%s", out); err == nil {
		t.Error("gateway bridge test finds nothing wrong")
	}
	out, err = g.command("status")
	t.Logf("gateway status without a majority: %v\n%s", err, out)
	f.stop()
	<-f.done
	c.run(1)
	g.sends(0)
	all, _ := c.read(cons)
	repeated, late := f.compare(t, all)
	if t.Logf("%d acknowledged, %d repeated", f.acked, repeated); late > 0 {
		t.Errorf("%d messages came after a later one of their topic", late)
	}
}
