package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho" // the demo's local subscriber, a client not written here
	"github.com/spf13/cobra"

	"edgegateway/broker"
	"edgegateway/devices/simulator"
	"edgegateway/internal/config"
)

func newDemo() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole path with a simulated plant, a cloud broker and an outage",
		Long: `demo needs no hardware and no configuration. It plays a plant (a PLC on Modbus
TCP, two meters on a Modbus RTU line at 9600 baud, a wind sensor), runs the
gateway against it, and a second broker as the cloud, on loopback over TLS.
Now and then it cuts the uplink, lets the buffer fill and restores it.

At the end it compares what a subscriber at the site saw with what arrived in
the cloud, and exits with 1 if anything was lost or came out of order.`,
		Example: `  gateway demo
  gateway demo --for 30s --json
  gateway demo --keep plant                   its configuration is a start for one's own`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			return d.run(ctx)
		},
	}
	cmd.Flags().DurationVar(&d.length, "for", 0, "how long; without it until Ctrl-C")
	cmd.Flags().BoolVar(&d.asJSON, "json", false, "print the summary as JSON")
	cmd.Flags().StringVar(&d.keep, "keep", "", "keep the configuration, keys and buffers in this new folder")
	return cmd
}

// A demo is the gateway between a simulated plant and a cloud of its own.
type demo struct {
	length time.Duration
	asJSON bool
	keep   string

	dir      string
	at       demoAddresses
	password string
	sim      *simulator.Simulator
	uplink   *link
	tally    *tally
	gateway  *child
	outages  outages
	backlog  uint64 // most messages that waited at once
	last     Status // of the gateway, as last asked
}

const (
	demoStart = 20 * time.Second // for the gateway to be ready
	demoDrain = time.Minute      // for the backlog to leave at the end
)

func (d *demo) run(ctx context.Context) error {
	remove, err := d.makeDir()
	if err != nil {
		return err
	}
	defer remove()
	// What the demo runs outlives a signal: the summary comes after it.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	if err := d.start(work, &parts); err != nil {
		return err
	}
	defer d.gateway.kill()
	watcher, err := d.watchSite(work)
	if err != nil {
		return err
	}
	d.show(ctx)
	if err := d.finish(); err != nil {
		return err
	}
	select {
	case <-watcher.Done(): // the broker's goodbye comes after its last message
	case <-time.After(10 * time.Second):
		return errors.New("the local broker did not say goodbye to its subscriber")
	}
	return d.verdict()
}

func (d *demo) makeDir() (remove func(), err error) {
	if d.keep == "" {
		d.dir, err = os.MkdirTemp("", "gateway-demo-")
		return func() { os.RemoveAll(d.dir) }, err
	}
	if d.dir, err = filepath.Abs(d.keep); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(d.dir); err == nil && len(entries) > 0 {
		return nil, usageError("--keep %s: the folder exists and is not empty; name a new one", d.keep)
	}
	return func() {}, os.MkdirAll(d.dir, 0o755)
}

// start brings up the cloud, the uplink, the plant and the gateway.
func (d *demo) start(ctx context.Context, parts *sync.WaitGroup) error {
	d.tally = newTally()
	if err := writeDemoKeys(d.dir); err != nil {
		return err
	}
	far, err := d.startCloud(ctx, parts)
	if err != nil {
		return fmt.Errorf("start the cloud broker: %w", err)
	}
	if d.uplink, err = newLink(ctx, far); err != nil {
		return err
	}
	free, err := freeAddresses(2)
	if err != nil {
		return err
	}
	d.at = demoAddresses{plc: free[0], broker: free[1], cloud: d.uplink.addr}
	if d.password, err = writeDemo(d.dir, d.at); err != nil {
		return fmt.Errorf("write the demo's configuration: %w", err)
	}
	cfg, err := loadConfig(d.dir)
	if err != nil {
		return err
	}
	if err := d.startPlant(ctx, parts, cfg); err != nil {
		return fmt.Errorf("start the simulated plant: %w", err)
	}
	if d.gateway, err = startChild(d.dir); err != nil {
		return err
	}
	return d.gateway.awaitReady(ctx, demoStart)
}

// startCloud runs a broker that wants TLS, a certificate of the demo's
// authority, and the password.
func (d *demo) startCloud(ctx context.Context, parts *sync.WaitGroup) (addr string, err error) {
	credentials := filepath.Join(d.dir, "credentials")
	cert, err := tls.LoadX509KeyPair(filepath.Join(credentials, "cloud.crt"), filepath.Join(credentials, "cloud.key"))
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(filepath.Join(credentials, "ca.crt"))
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cloud, err := broker.New(broker.Config{
		Listen: []broker.Listen{{Network: "tcp", Address: "127.0.0.1:0", TLS: &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
		}}},
		Authenticate: func(_ context.Context, l broker.Login) (string, error) {
			if l.User != "plant-a" || string(l.Password) != d.password {
				return "", errors.New("wrong user or password")
			}
			return l.User, nil
		},
	})
	if err != nil {
		return "", err
	}
	if err := cloud.Handle("#", d.arrived); err != nil {
		return "", err
	}
	failed := make(chan error, 1)
	parts.Go(func() { failed <- cloud.Run(ctx) })
	select {
	case <-cloud.Ready():
		return cloud.Addr(0).String(), nil
	case err := <-failed:
		return "", err
	}
}

// arrived is called by the cloud broker for each message it receives.
func (d *demo) arrived(msg *broker.Message) {
	d.outages.bridged(time.Now())
	if msg.Props == nil {
		return // the gateway's own status
	}
	for _, p := range msg.Props.User {
		if p.Key == "mid" {
			d.tally.cloud(strings.TrimPrefix(msg.Topic, "dt/"), p.Value, msg.Payload)
		}
	}
}

func (d *demo) startPlant(ctx context.Context, parts *sync.WaitGroup, cfg *config.Config) error {
	plan, err := simulatorConfig(cfg, nil)
	if err != nil {
		return err
	}
	plan.Seed = uint64(time.Now().UnixNano())
	plan.Log = slog.New(slog.DiscardHandler)
	if d.sim, err = simulator.New(plan); err != nil {
		return err
	}
	failed := make(chan error, 1)
	parts.Go(func() { failed <- d.sim.Run(ctx) })
	select {
	case <-d.sim.Ready():
		return nil
	case err := <-failed:
		return err
	}
}

// watchSite subscribes to everything at the local broker, as any client would.
func (d *demo) watchSite(ctx context.Context) (*paho.Client, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.at.broker)
	if err != nil {
		return nil, fmt.Errorf("connect to the local broker: %w", err)
	}
	client := paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(r paho.PublishReceived) (bool, error) {
				if p := r.Packet; !p.Retain && p.Topic != "plant-a/_status" {
					d.tally.site(p.Topic, p.Payload)
				}
				return true, nil
			},
		},
	})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "demo-watcher", CleanStart: true, KeepAlive: 30}); err != nil {
		return nil, fmt.Errorf("connect to the local broker: %w", err)
	}
	_, err = client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "plant-a/#", QoS: 1}}})
	if err != nil {
		return nil, fmt.Errorf("subscribe at the local broker: %w", err)
	}
	return client, nil
}

// show runs the outages and draws what is going on until the time is up.
func (d *demo) show(ctx context.Context) {
	if d.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.length)
		defer cancel()
	}
	s := newScreen(d)
	s.intro()
	defer s.end()
	began := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.gateway.exited:
			return // finish tells what happened
		case <-ctx.Done():
			return
		}
		d.setUplink(!cutAt(time.Since(began), d.length))
		d.poll(ctx)
		s.draw(time.Since(began))
	}
}

// cutAt says whether the uplink is to be cut: once in the middle third of a
// demo of known length, else for 15 of every 45 seconds.
func cutAt(t, length time.Duration) bool {
	if length > 0 {
		return t >= length*3/10 && t < length*6/10
	}
	t %= 45 * time.Second
	return t >= 15*time.Second && t < 30*time.Second
}

func (d *demo) setUplink(up bool) {
	if up == !d.outages.now() {
		return
	}
	if !up {
		d.outages.begin(time.Now())
		d.uplink.cut()
		return
	}
	if d.uplink.restore() == nil { // else at the next tick
		d.outages.restored()
	}
}

// poll asks the gateway how it does.
func (d *demo) poll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var s Status
	if ask(ctx, d.gateway.socket, "/status", nil, &s) == nil {
		d.last = s
		d.backlog = max(d.backlog, d.waiting())
	}
}

// waiting is how many messages the cloud has not acknowledged.
func (d *demo) waiting() (n uint64) {
	for _, b := range d.last.Bridges {
		for _, l := range b.Backlog {
			n += l.Records
		}
	}
	return n
}

// finish restores the uplink, lets the backlog drain and stops the gateway.
func (d *demo) finish() error {
	deadline := time.Now().Add(demoDrain)
	for d.setUplink(true); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		d.setUplink(true)
		d.poll(context.Background())
		// Polling goes on, so some messages are always under way.
		if len(d.last.Bridges) > 0 && d.last.Bridges[0].State == "up" && d.waiting() < 100 {
			break
		}
		select {
		case <-d.gateway.exited:
			return d.gateway.died()
		default:
		}
	}
	return d.gateway.stop()
}

func (d *demo) verdict() error {
	_, delivered, duplicated, disorder := d.tally.counts()
	missing := d.tally.missing()
	count, longest := d.outages.figures()
	s := Summary{
		Readings: d.last.Readings, Delivered: delivered, Lost: len(missing), Duplicated: duplicated,
		OutOfOrder: disorder, Outages: count, LongestOutage: inSeconds(longest), MaxBacklog: d.backlog,
	}
	if err := s.print(d.asJSON); err != nil {
		return err
	}
	if d.keep != "" {
		fmt.Fprintf(os.Stderr, "\nThe configuration is in %s. Go on from there:\n  gateway simulate --config %[1]s &\n  gateway run --config %[1]s --state %[1]s/state\n", d.dir)
	}
	if s.Lost > 0 {
		return fmt.Errorf("%d messages were lost, the first on topic %s", s.Lost, missing[0])
	}
	if s.OutOfOrder > 0 {
		return fmt.Errorf("%d messages came out of order", s.OutOfOrder)
	}
	if s.Delivered == 0 {
		return errors.New("nothing was delivered")
	}
	return nil
}

func (s *Summary) print(asJSON bool) error {
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(s)
	}
	_, err := fmt.Printf(`
readings taken      %d
messages delivered  %d
lost                %d
duplicated          %d  (told apart by their id)
out of order        %d
outages             %d, the longest %v s, with up to %d messages waiting
`, s.Readings, s.Delivered, s.Lost, s.Duplicated, s.OutOfOrder, s.Outages, s.LongestOutage, s.MaxBacklog)
	return err
}
