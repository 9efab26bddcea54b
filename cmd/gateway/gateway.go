package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	rights "edgegateway/broker/access" // access is how commands reach devices
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/capture"
	"edgegateway/devices/modbus"
	"edgegateway/devices/serial"
	"edgegateway/internal/clock"
	"edgegateway/internal/config"
	"edgegateway/internal/homeassistant"
	"edgegateway/internal/writelog"
	"edgegateway/mapping"
)

// A gateway is everything that `run` runs. It is built by newGateway, and
// each part is run in the stage that says when it has to end.
type gateway struct {
	cfg     *config.Config // as it was started with: for what no reload changes
	at      places
	log     *slog.Logger
	started devices.Stamp
	clock   *clock.Source
	logs    [broker.NumClasses]*spool.Log
	owed    *spool.Log // to sessions of the broker
	access  *rights.Control
	broker  *broker.Broker
	reloads *reloader // nil: nothing is ever reloaded
	works   atomic.Pointer[works]
	stages  *stages   // while it runs
	dog     *watchdog // likewise
	command *commander
	pauses  *pauses
	control *control
	learned *notebook
	writes  *writelog.Log
	diary   *diary
	births  map[string]bool // topics on which Home Assistant is listened to

	unanswered modbus.Unanswered

	readOnly bool
	changing chan struct{} // has room for one: a reload while it is under way, and the stop for good
}

// works are what the configuration makes of a gateway. A reload puts others in
// their place, in which all that did not change is the same.
type works struct {
	cfg     *config.Config
	mapper  *mapping.Mapper // of all devices; only what reads nothing that changes
	buses   []*bus
	bridges []*uplink
	plant   *plant
	ha      *announcer
}

// An uplink is a bridge that may be stopped by itself.
type uplink struct {
	*bridge.Bridge
	name string
	stop func() // and waits; nil until it runs
}

// A bus is a field bus with what belongs to it alone.
type bus struct {
	*config.Bus
	poller *devices.Poller
	pump   *pump
	doctor *diagnoser // nil: the bus speaks by itself
	doubts *doubter
	leave  []func() // stop its parts, in order; each waits
}

// places are the folders a gateway works in.
type places struct {
	state   string
	runtime string
}

// newGateway opens the spool and builds the rest; nothing runs yet but the
// spool's committers, which close ends.
func newGateway(cfg *config.Config, at places, readOnly bool, log *slog.Logger) (g *gateway, err error) {
	g = &gateway{cfg: cfg, at: at, log: log, started: devices.Now(), readOnly: readOnly, births: map[string]bool{}, changing: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	g.clock = openClock(cfg, at.state, false, g.clockChanged, log)
	if err := g.openLogs(at); err != nil {
		return g, err
	}
	g.learned = openNotebook(filepath.Join(at.state, "learned.json"), deviceIDs(cfg.Devices), log)
	w, err := g.newWorks(cfg, nil)
	if err != nil {
		return g, err
	}
	w.ha = g.newAnnouncer(w)
	g.works.Store(w)
	if err := g.newBroker(at); err != nil {
		return g, err
	}
	for _, settings := range cfg.Bridges {
		u, err := g.newUplink(settings)
		if err != nil {
			return g, err
		}
		w.bridges = append(w.bridges, u)
	}
	if err := g.listenForBirths(w); err != nil {
		return g, err
	}
	g.diary = openDiary(filepath.Join(at.state, "computed.json"), func() []*bus { return g.works.Load().buses }, log)
	for _, b := range w.buses {
		g.diary.give(b)
	}
	if err := g.newCommands(at); err != nil {
		return g, err
	}
	g.pauses = newPauses(g.plant, g.clock.Now, log)
	g.control = &control{path: filepath.Join(at.runtime, "control.sock"), plant: g.plant, command: g.command, pauses: g.pauses, loan: loanTime, status: g.status, buffers: g.buffers, log: log}
	return g, nil
}

// newCommands opens the log of writes and the holds, and takes commands.
func (g *gateway) newCommands(at places) (err error) {
	g.writes, err = writelog.Open(writelog.Config{
		Dir: filepath.Join(at.state, writesDir), NoSync: g.cfg.Commands.NoSync, Age: g.cfg.Commands.Remember,
		Now: func() writelog.Moment { return momentNow(g.clock.Now()) }, Log: g.log,
	})
	if err != nil {
		return err
	}
	g.command = newCommander(g.plant, g.cfg.Commands, g.writes, g.broker.Publish, g.log)
	g.command.holds = openHolds(holdsPath(at.state), &holds{
		gateway: g.cfg.Name, clock: g.clock.Now, publish: g.broker.Publish, log: g.log,
		names: func(id string) string {
			if dev := g.plant().device(id); dev != nil {
				return dev.Name
			}
			return ""
		},
	})
	g.command.mutes = openMutes(mutesPath(at.state), &mutes{clock: g.clock.Now, log: g.log, tell: g.reviewMuted})
	for _, b := range g.works.Load().buses {
		b.pump.screen = g.command.screen
	}
	for _, filter := range commandTopics(g.cfg.Name) {
		if err := g.broker.HandleSafe(filter, g.command.handle); err != nil {
			return err
		}
	}
	return nil
}

// close commits and closes the logs.
func (g *gateway) close() error {
	var errs []error
	if g.writes != nil {
		errs = append(errs, g.writes.Close())
	}
	for name, l := range g.allLogs() {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the %s spool: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (g *gateway) openLogs(at places) (err error) {
	for class := range g.logs {
		name := broker.Class(class).String()
		if g.logs[class], err = g.openLog(at, name, &g.cfg.Spools[class]); err != nil {
			return err
		}
	}
	g.owed, err = g.openLog(at, sessionsLog, &g.cfg.SessionSpool)
	return err
}

func (g *gateway) openLog(at places, name string, settings *config.Spool) (*spool.Log, error) {
	l, err := spool.Open(spoolConfig(at, name, settings, g.clock, g.log))
	if err != nil {
		return nil, fmt.Errorf("open the %s spool: %w", name, err)
	}
	return l, nil
}

// allLogs returns the logs that are open, by name.
func (g *gateway) allLogs() map[string]*spool.Log {
	all := make(map[string]*spool.Log)
	for class, l := range g.logs {
		all[broker.Class(class).String()] = l
	}
	all[sessionsLog] = g.owed
	maps.DeleteFunc(all, func(_ string, l *spool.Log) bool { return l == nil })
	return all
}

func (g *gateway) newBroker(at places) (err error) {
	g.access = rights.New(g.cfg.Access)
	ours := owns(g.cfg.Name, func(topic string) bool {
		w := g.works.Load()
		return w.mapper.Publishes(topic) || w.ha.announces(topic)
	})
	g.broker, err = broker.New(broker.Config{
		Listen:      g.cfg.Listen,
		Origins:     g.cfg.Origins,
		Certificate: g.cfg.Certificate,
		Limits:      g.cfg.Limits,
		StateDir:    at.state,
		RuntimeDir:  at.runtime,
		Logs:        g.logs,
		Sessions:    g.owed,
		Version:     version(),
		Now:         func() int64 { return int64(devices.Now()) }, // without a system call
		Clock:       g.clock.Now,
		ClockAt:     g.clock.At,
		Log:         g.log,
		Allow: func(user, clientID, topic string, access broker.Access) bool {
			return ours(user, clientID, topic, access) && g.access.Allow(user, clientID, topic, access)
		},
		AllowAll:     g.access.AllowAll, // ours forbids nobody to receive anything
		Authenticate: g.access.Authenticate,
	})
	if err != nil {
		return fmt.Errorf("start the broker: %w", err)
	}
	return nil
}

// owns returns the rule that keeps everybody but the gateway itself off its
// value, status and result topics: of what lies below its name, clients and
// bridges publish commands only, and nothing where ours says that a value is.
// A bridge publishes nothing else anywhere.
func owns(name string, ours func(topic string) bool) func(user, clientID, topic string, access broker.Access) bool {
	return func(user, _, topic string, access broker.Access) bool {
		if access != broker.Write {
			return true
		}
		if ours(topic) {
			return false
		}
		below, inside := strings.CutPrefix(topic, name+"/")
		if !inside {
			return topic != name && !strings.HasPrefix(user, "bridge:")
		}
		levels := strings.Split(below, "/")
		switch len(levels) {
		case 2:
			return levels[1] == "_set" || levels[1] == "_get"
		case 3:
			return levels[2] == "set"
		}
		return false
	}
}

// newUplink makes a bridge; from then on the spool keeps what is for it.
func (g *gateway) newUplink(settings *config.Bridge) (*uplink, error) {
	cfg := settings.Config
	equip(&cfg, settings, g.at)
	cfg.OnGap, cfg.ClockAt = g.publishGap, g.clock.At
	cfg.Now = func() int64 { return int64(devices.Now()) } // without a system call
	if settings.StatusTopic != "" {
		cfg.Status = &bridge.Status{Topic: settings.StatusTopic, Online: g.statusPayload("online"), Offline: g.statusPayload("offline")}
	}
	b, err := bridge.New(cfg, g.broker, g.clock.Now, g.log)
	if err != nil {
		return nil, err
	}
	return &uplink{Bridge: b, name: settings.Name}, nil
}

// newWorks makes what a configuration says, but for its bridges, which the
// broker has to be there for, and the announcer. The buses of old that are in cfg, too, are taken
// over; nothing is begun, and nothing of old changed.
func (g *gateway) newWorks(cfg *config.Config, old *works) (*works, error) {
	w := &works{cfg: cfg}
	var err error
	if w.mapper, err = mapping.New(cfg.Mapping()); err != nil {
		return nil, err
	}
	w.plant = &plant{cfg: cfg, mapper: w.mapper, buses: map[string]*plantBus{}, clock: g.clock.Now, readOnly: g.readOnly}
	pumps := map[string]*pump{}
	for _, settings := range cfg.Buses {
		if len(settings.Devices) == 0 {
			continue
		}
		b, line := old.bus(settings)
		if b == nil {
			if b, line, err = g.newBus(cfg, settings); err != nil {
				return nil, err
			}
		}
		w.buses = append(w.buses, b)
		pumps[b.ID] = b.pump
		w.plant.buses[b.ID] = line
	}
	w.plant.last = func(dev *mapping.Device, point *mapping.Point) (v mapping.Value) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if p := pumps[dev.Bus]; p != nil {
			p.call(ctx, func(m *mapping.Mapper) { v = m.Last(dev, point) })
		}
		return v
	}
	w.plant.seen = func(b *devices.Batch) {
		if p := pumps[b.Device.Bus]; p != nil {
			p.hand(b)
			return
		}
		b.Release()
	}
	return w, nil
}

// plant returns the buses and devices that there are now.
func (g *gateway) plant() *plant { return g.works.Load().plant }

// bus returns the bus that was made of settings; nil if none was.
func (w *works) bus(settings *config.Bus) (*bus, *plantBus) {
	if w == nil {
		return nil, nil
	}
	for _, b := range w.buses {
		if b.Bus == settings {
			return b, w.plant.buses[b.ID]
		}
	}
	return nil, nil
}

// newAnnouncer makes what tells Home Assistant of the devices; without a
// [homeassistant] table it takes back what an earlier one announced.
func (g *gateway) newAnnouncer(w *works) *announcer {
	var list []homeassistant.Announcement
	if settings := w.cfg.HomeAssistant; settings != nil {
		list, _ = homeassistant.Discover(settings, w.cfg.Plant(version(), w.mapper)) // check told what is missing
	}
	return newAnnouncer(list, filepath.Join(g.at.state, "homeassistant.json"), g.publish, g.log)
}

// listenForBirths hears when Home Assistant comes online.
func (g *gateway) listenForBirths(w *works) error {
	settings := w.cfg.HomeAssistant
	if settings == nil || g.births[settings.Birth] {
		return nil
	}
	topic := settings.Birth
	g.births[topic] = true
	return g.broker.Handle(topic, func(msg *broker.Message) {
		if w := g.works.Load(); w.cfg.HomeAssistant != nil && w.cfg.HomeAssistant.Birth == topic {
			w.ha.handle(msg)
		}
	})
}

// mapperOf makes the mapper of one bus.
func mapperOf(cfg *config.Config, bus *config.Bus) (*mapping.Mapper, error) {
	mapped := cfg.Mapping()
	mapped.Devices = bus.Devices
	return mapping.New(mapped)
}

func (g *gateway) newBus(cfg *config.Config, settings *config.Bus) (*bus, *plantBus, error) {
	mapper, err := mapperOf(cfg, settings)
	if err != nil {
		return nil, nil, err
	}
	b := &bus{Bus: settings, pump: newPump(mapper, g.publish, g.clock.Now, g.log)}
	b.pump.remark = g.remark
	poll := devices.PollerConfig{Bus: settings.ID, Out: b.pump.in, Log: g.log, Muted: func(device string) error { return g.command.mutes.why(device) }}
	if settings.Aligned {
		poll.Aligned = g.wall
	}
	for _, dev := range settings.Devices {
		poll.Devices = append(poll.Devices, dev.Device)
	}
	settings.Modbus.Notebook, settings.Modbus.Unanswered = g.learned, &g.unanswered
	tap := new(capture.Tap)
	if poll.Line, poll.Listener, err = openBus(settings, poll.Devices, tap); err != nil {
		return nil, nil, err
	}
	if b.poller, err = devices.NewPoller(poll); err != nil {
		return nil, nil, err
	}
	b.doctor = newDiagnoser(b, poll.Line, g.log)
	b.doubts = newDoubter(settings, g.plant, g.log)
	b.pump.note = b.doubts.note
	if b.doctor != nil {
		b.doctor.excuse = b.doubts.undecided
	}
	return b, &plantBus{line: poll.Line, do: b.poller.Do, lend: b.poller.Lend, tap: tap}, nil
}

func (g *gateway) publish(msg *broker.Message) { g.broker.Publish(msg) }

// reviewMuted has all buses look who is muted.
func (g *gateway) reviewMuted() {
	for _, b := range g.works.Load().buses {
		b.poller.Review()
	}
}

// remark is what the status of a device says besides its state.
func (g *gateway) remark(b *devices.Batch) mapping.Remark {
	if b.State != devices.Maintenance {
		return mapping.Remark{}
	}
	return cmp.Or(g.command.mutes.remark(b.Device.ID), g.pauses.remark(b.Device.Bus))
}

// wall is local time minus boot time: what begins at multiples of an hour or a
// day of it does so where people live.
func (g *gateway) wall() time.Duration {
	c := g.clock.Now()
	_, zone := time.Unix(0, int64(devices.Now())+c.Offset).In(g.cfg.Timezone).Zone()
	return time.Duration(c.Offset) + time.Duration(zone)*time.Second
}

// openBus is the protocol table: it returns the line or the listener of a
// bus, which opens its port when it needs it. What passes that can be recorded
// by tap, which may be nil.
func openBus(settings *config.Bus, devs []*devices.Device, tap *capture.Tap) (devices.Line, devices.Listener, error) {
	switch settings.Protocol {
	case config.Modbus:
		cfg := settings.Modbus
		cfg.Tap = tap
		line, err := modbus.NewLine(cfg)
		if err != nil {
			return nil, nil, fmt.Errorf("bus %s: %w", settings.ID, err)
		}
		return line, nil, nil
	case config.Lines, config.Frames:
		reader, err := serial.NewReader(serial.ReaderConfig{
			Bus:     settings.ID,
			Devices: devs,
			Framing: settings.Lines.Framing,
			Polls:   settings.Lines.Polls,
			Open:    func() (serial.Stream, error) { return tap.Wrap(openStream(settings)) },
		})
		if err != nil {
			return nil, nil, err
		}
		return nil, reader, nil
	}
	return nil, nil, fmt.Errorf("bus %s: protocol %q is not known", settings.ID, settings.Protocol)
}

func openStream(settings *config.Bus) (capture.Stream, error) {
	if settings.Lines.Address != "" {
		return net.DialTimeout("tcp", settings.Lines.Address, 10*time.Second)
	}
	return serial.Open(settings.Lines.Serial)
}

// A stage is a set of parts that end together.
type stage struct {
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	parts  sync.WaitGroup
	failed func(error)
}

func newStage(name string, failed func(error)) *stage {
	s := &stage{name: name, failed: failed}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run runs a part until it ends, the stage does, or the function that is
// returned is called, which waits for it.
func (s *stage) run(part string, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	s.parts.Go(func() {
		defer close(ended)
		defer cancel()
		if err := run(ctx); err != nil && ctx.Err() == nil {
			s.failed(fmt.Errorf("%s: %w", part, err))
		}
	})
	return func() { cancel(); <-ended }
}

func (s *stage) end() {
	s.cancel()
	s.parts.Wait()
}

// The stages of a gateway, in the order in which they end: first what obeys,
// then what asks, then what publishes, then the bridges, which get some time to
// hand over what they still have, then the broker with its clients.
type stages struct{ orders, field, pumps, uplinks, site *stage }

func newStages(failed func(error)) *stages {
	return &stages{
		newStage("commands", failed), newStage("field", failed), newStage("pumps", failed), newStage("bridges", failed), newStage("site", failed),
	}
}

func (s *stages) end() {
	for _, one := range []*stage{s.orders, s.field, s.pumps, s.uplinks, s.site} {
		one.end()
	}
}

// run works until ctx is done, and then ends politely, stage by stage. ready is
// called when all listeners listen.
func (g *gateway) run(ctx context.Context, ready func()) error {
	socket, err := g.control.listen()
	if err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	s := newStages(func(err error) { fail(err) })
	g.stages = s
	defer func() {
		g.log.Info("stopping", "reason", context.Cause(ctx))
		g.changing <- struct{}{} // never to be taken out
		s.end()
	}()

	s.site.run("notebook", g.learned.run)
	s.site.run("diary", g.diary.run)
	s.site.run("control socket", func(ctx context.Context) error { return g.control.serve(ctx, socket) })
	s.site.run("broker", g.broker.Run)
	select {
	case <-g.broker.Ready():
	case <-ctx.Done():
		return errStopped(ctx)
	}
	g.publishStatus("online")
	g.dog = newWatchdog(g.log)
	g.followRest()
	s.site.run("watchdog", g.dog.run) // also while the others end
	w := g.works.Load()
	g.beginAnnouncer(w)
	s.pumps.run("health", g.runHealth)
	for _, u := range w.bridges {
		g.beginUplink(u)
	}
	for _, b := range w.buses {
		g.beginBus(b)
	}
	s.site.run("log of writes", g.writes.Run)
	for _, filter := range commandTopics(g.cfg.Name) {
		g.command.retained(g.broker.Retained(filter))
	}
	s.orders.run("commands", g.command.run)
	s.field.run("clock", g.clock.Run)
	if g.reloads != nil {
		s.site.run("reload", g.reloads.run)
	}
	s.site.run("status line", g.runStatusLine)
	if web := g.newWeb(); web != nil {
		s.site.run("web", web.Run)
		<-web.Ready()
	}
	ready()
	<-ctx.Done()
	return errStopped(ctx)
}

func (g *gateway) beginUplink(u *uplink) {
	end := g.stages.uplinks.run("bridge "+u.name, u.Run)
	leave := g.dog.follow("bridge "+u.name, bridgeAllowance, u.Turn)
	u.stop = func() { leave(); end() }
}

func (g *gateway) beginAnnouncer(w *works) {
	w.ha.stop = g.stages.site.run("Home Assistant", w.ha.run)
}

// beginBus runs the parts of a bus: what asks ends before what publishes.
func (g *gateway) beginBus(b *bus) {
	pump := g.stages.pumps.run("bus "+b.ID, b.pump.run)
	b.leave = append(b.leave, g.stages.field.run("bus "+b.ID, b.poller.Run), g.stages.field.run("doubts of bus "+b.ID, b.doubts.run))
	b.leave = slices.Insert(b.leave, 0,
		g.dog.follow("bus "+b.ID, busAllowance+4*b.longestTimeout(), b.poller.Turn),
		g.dog.follow("values of bus "+b.ID, otherAllowance, b.pump.turn))
	if b.doctor != nil {
		b.leave = append(b.leave, g.stages.field.run("diagnosis of bus "+b.ID, b.doctor.run))
	}
	b.leave = append(b.leave, pump)
}

func (b *bus) stop() {
	for _, stop := range b.leave {
		stop()
	}
}

// errStopped returns what went wrong, nil for a stop that was asked for.
func errStopped(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errSignal) {
		return err
	}
	return nil
}

// clockChanged publishes the retained values again once it is known what time
// it is: those from before carry times that may be months off.
func (g *gateway) clockChanged(q broker.Quality) {
	g.log.Info("clock changed", "quality", q.String())
	if q != broker.Exact {
		return
	}
	g.broker.Resync()
	g.publishStatus("online")
}

// A gatewayStatus is the payload of NAME/_status.
type gatewayStatus struct {
	Status  string `json:"status"`
	Version string `json:"version"`
	Config  string `json:"config"` // hash of the configuration
	Time    string `json:"time,omitempty"`
	broker.ClockNote
}

// payloadTime is how times are written in payloads that hold no slots.
const payloadTime = "2006-01-02T15:04:05.000Z"

// statusPayload is what a bridge says of the gateway upstream. It carries no
// time, for as a Will it is published when nobody knows it.
func (g *gateway) statusPayload(status string) []byte {
	text, _ := json.Marshal(gatewayStatus{Status: status, Version: version(), Config: g.works.Load().cfg.Hash()})
	return text
}

// publishStatus publishes NAME/_status to the site. No bridge is owed it: each
// tells its own far side whether the gateway is connected, and one that was
// stored in an outage would tell it of a start long past.
func (g *gateway) publishStatus(status string) {
	now, clock := int64(devices.Now()), g.clock.Now()
	s := gatewayStatus{Status: status, Version: version(), Config: g.works.Load().cfg.Hash(), Time: clock.Wall(now).Format(payloadTime), ClockNote: clock.Note(now)}
	text, _ := json.Marshal(s)
	g.broker.Publish(&broker.Message{Topic: g.cfg.Name + "/_status", Payload: text, Retain: true, Local: true, Stamp: now})
}

// A gapMessage is the payload of NAME/_gap.
type gapMessage struct {
	Bridge string `json:"bridge"`
	Class  string `json:"class"`
	First  string `json:"first"` // message ids, as the user property mid has them
	Last   string `json:"last"`
	Count  uint64 `json:"count"` // 0: not known
	Reason string `json:"reason"`
	Time   string `json:"time"`
	broker.ClockNote
}

// publishGap tells everybody that messages a bridge was owed are lost.
func (g *gateway) publishGap(gap bridge.Gap) {
	now, clock, log := int64(devices.Now()), g.clock.Now(), g.logs[gap.Class].ID()
	text, _ := json.Marshal(gapMessage{
		Bridge: gap.Bridge, Class: gap.Class.String(), First: bridge.MessageID(log, gap.First), Last: bridge.MessageID(log, gap.Last),
		Count: gap.Count, Reason: gap.Reason, Time: clock.Wall(now).Format(payloadTime), ClockNote: clock.Note(now),
	})
	g.broker.Publish(&broker.Message{
		Topic: g.cfg.Name + "/_gap", Payload: text, QoS: 1, Class: broker.Critical, Stamp: now,
	})
}
