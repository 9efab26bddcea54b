// Package metrics shows the gateway's figures in the text format of Prometheus.
//
// Nothing is counted here: the packages count for themselves, and their figures
// are read when somebody scrapes. So metrics cost nothing while nobody does, and
// a scrape waits for nobody and keeps nobody waiting: it takes the lock of one
// part's figures at a time, for as long as copying them takes.
//
// Names follow the practice of Prometheus: base units, _total for what only
// rises, one quantity for each metric. Labels are what the configuration names
// (buses, devices, bridges) and short lists of reasons; never a topic or a
// client, of which there is no bound.
//
// github.com/prometheus/client_golang is there for three things that are easily
// got wrong by hand: the figures of the Go runtime and of the process under
// the names that dashboards everywhere know, negotiation of formats and
// compression, and the check that what is shown is consistent.
package metrics

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus" // see above
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// Figures are what there is to know at one moment.
type Figures struct {
	Version string
	Clock   broker.Clock
	Now     devices.Stamp

	Buses   []Bus
	Bridges []bridge.Stats
	Spools  map[string]spool.Stats  // by log; those of classes under the names that Bridges know
	Sync    map[string]spool.Policy // by log
	Broker  broker.Stats

	CommandLog bool // what is to be written can be logged
	Reload     Reload

	Certificates map[string]time.Time // when those end that the gateway shows, by whose they are
}

// A Bus is one bus with what its line counts, nil if it counts nothing.
type Bus struct {
	devices.BusStats
	Line     *modbus.Stats
	Values   []Value // those to be shown
	Readings uint64
	Mute     map[string]bool // devices that never answer: they are all of their line
}

// A Value is what a point of a device that answers holds, if that is a number;
// 1 and 0 for on and off.
type Value struct {
	Device, Point, Unit string
	V                   float64
}

// Reload tells of the configuration.
type Reload struct {
	OK      bool          // the last one, or there was none
	Good    devices.Stamp // when the last good configuration was read
	Restart bool          // some of it waits for a restart
}

// New returns the figures that read returns, and those of the Go runtime and of
// the process. read may be called by several goroutines.
func New(read func() *Figures) *prometheus.Registry {
	all := prometheus.NewRegistry()
	all.MustRegister(collector(read), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return all
}

// Handler answers scrapes with them.
func Handler(read func() *Figures) http.Handler {
	return promhttp.HandlerFor(New(read), promhttp.HandlerOpts{Timeout: 20 * time.Second})
}

// A Metric is one that is shown.
type Metric struct {
	Name   string
	Type   string // counter, gauge, histogram or summary
	Help   string
	Labels []string

	desc *prometheus.Desc
	kind prometheus.ValueType
}

// prefix begins all names.
const prefix = "gateway_"

// metrics are all there are, in the order in which they are written down below.
var metrics []*Metric

// All lists the metrics of the gateway itself.
func All() []*Metric { return metrics }

func define(kind prometheus.ValueType, typ, name, help string, labels []string) *Metric {
	m := &Metric{Name: prefix + name, Type: typ, Help: help, Labels: labels, kind: kind}
	m.desc = prometheus.NewDesc(m.Name, help, labels, nil)
	metrics = append(metrics, m)
	return m
}

func counter(name, help string, labels ...string) *Metric {
	return define(prometheus.CounterValue, "counter", name, help, labels)
}

func gauge(name, help string, labels ...string) *Metric {
	return define(prometheus.GaugeValue, "gauge", name, help, labels)
}

func histogram(name, help string, labels ...string) *Metric {
	return define(prometheus.UntypedValue, "histogram", name, help, labels)
}

// summary is a sum and a count, whose quotient is the mean.
func summary(name, help string, labels ...string) *Metric {
	return define(prometheus.UntypedValue, "summary", name, help, labels)
}

var (
	buildInfo = gauge("build_info", "1, with the version of the gateway and of Go.", "version", "go")

	busPortUp      = gauge("bus_port_up", "1 while the port or connection of the bus is there, 0 while it is missing.", "bus")
	busLent        = gauge("bus_lent", "1 while the bus is lent to a scan or another program and its devices are not asked.", "bus")
	busRequests    = counter("bus_requests_total", "Requests on the bus, or lines heard, by result: ok; exception, the device refused; timeout; bad_reply, bytes that answer nothing; no_port.", "bus", "result")
	busDuration    = histogram("bus_request_duration_seconds", "How long requests took, with waiting for the answer. Not of buses that speak by themselves.", "bus")
	busBusy        = counter("bus_busy_seconds_total", "How long the bus was taken by requests; its rate is the share of the time.", "bus")
	busChecksums   = counter("bus_checksum_errors_total", "Answers with a wrong checksum on a serial line: noise, wrong wiring or speed.", "bus")
	busLate        = counter("bus_late_answers_total", "Answers that came after the timeout and were thrown away.", "bus")
	busOpened      = counter("bus_opened_total", "How often the port or connection was opened.", "bus")
	busReadings    = counter("bus_readings_total", "Readings of points, failed ones too.", "bus")
	busDropped     = counter("bus_dropped_batches_total", "Batches of readings thrown away because they came faster than they could be published.", "bus")
	pollOverruns   = counter("poll_overruns_total", "Times at which a device should have been asked and could not, because the bus was still taken.", "bus")
	deviceUp       = gauge("device_up", "1 while the device answers, 0 while it is stale, offline, not asked yet or under maintenance.", "bus", "device")
	deviceMaint    = gauge("device_maintenance", "1 while the device is not asked on purpose.", "bus", "device")
	deviceSuccess  = gauge("device_last_success_timestamp_seconds", "When the device last answered; absent if it has not since the start.", "bus", "device")
	deviceRequests = counter("device_requests_total", "Requests to the device, by result: ok (be it with an exception) or failed.", "bus", "device", "result")
	deviceRefused  = counter("device_exceptions_total", "Requests that the device refused, by what it said; 16 kinds at most, then other.", "bus", "device", "exception")

	pointValue = gauge("point_value", "What a point holds, 1 and 0 for on and off; absent while its device does not answer or it has no value. Only with values = true under [web].", "device", "point", "unit")

	brokerClients       = gauge("broker_clients", "Clients that are connected.")
	brokerSessions      = gauge("broker_sessions", "Sessions that outlive their connection, of clients connected or not.")
	brokerSubscriptions = gauge("broker_subscriptions", "Subscriptions of all clients.")
	brokerRetained      = gauge("broker_retained_messages", "Retained messages.")
	brokerConnections   = counter("broker_connections_total", "Connections accepted.")
	brokerErrors        = counter("broker_protocol_errors_total", "Connections that ended because the client did not keep to the protocol.")
	brokerMessages      = counter("broker_messages_total", "Messages, by direction: received from clients or sent to them.", "direction")
	brokerBytes         = counter("broker_bytes_total", "Bytes on the connections of clients, by direction: received or sent.", "direction")
	brokerDropped       = counter("broker_dropped_total", "Messages that clients did not get, by reason.", "reason")

	bridgeUp         = gauge("bridge_up", "1 while the bridge is connected to its far broker.", "bridge")
	bridgeReconnects = counter("bridge_reconnects_total", "Connections after the first.", "bridge")
	bridgeMessages   = counter("bridge_messages_total", "Messages that the far broker answered for, by result: acknowledged, or refused for good.", "bridge", "result")
	bridgePostponed  = counter("bridge_postponed_total", "Answers of the far broker that its quota is used up; the message is sent again.", "bridge")
	bridgeSkipped    = counter("bridge_skipped_total", "Messages not sent because the configuration or their publisher wants it so, by reason.", "bridge", "reason")
	bridgeReceived   = counter("bridge_received_total", "Messages from the far broker, by result: published here, or rejected.", "bridge", "result")
	bridgeInFlight   = gauge("bridge_in_flight_messages", "Messages sent and not yet acknowledged by the far broker.", "bridge")
	bridgeAck        = summary("bridge_ack_seconds", "How long the far broker took to acknowledge messages, with the way there and back.", "bridge")

	bufferMessages = gauge("buffer_messages", "Messages that the far broker has not acknowledged yet.", "bridge", "class")
	bufferBytes    = gauge("buffer_bytes", "Bytes of these.", "bridge", "class")
	bufferLimit    = gauge("buffer_limit_bytes", "What the spool of that class may hold for all bridges together; beyond it the oldest messages go.", "bridge", "class")
	bufferOldest   = gauge("buffer_oldest_timestamp_seconds", "When the oldest of these was published; absent if there is none.", "bridge", "class")
	bufferDropped  = counter("buffer_dropped_total", "Messages that were kept for the bridge and are lost, by reason: quota, max_age, damage, queue full, purged, unreadable.", "bridge", "reason")

	spoolBytes    = gauge("spool_bytes", "Size of the files of the log on the medium.", "log")
	spoolLimit    = gauge("spool_limit_bytes", "Their bound.", "log")
	spoolDegraded = gauge("spool_degraded", "1 while the medium fails and nothing can be kept safe.", "log")
	spoolCommits  = counter("spool_commits_total", "Groups of records written.", "log")
	spoolSyncs    = counter("spool_syncs_total", "Syncs of the medium, each of which wears it.", "log")
	spoolWritten  = counter("spool_written_bytes_total", "Bytes written to the medium.", "log")
	spoolErrors   = counter("spool_io_errors_total", "Operations on the medium that failed.", "log")
	spoolDamaged  = counter("spool_damaged_bytes_total", "Bytes that came back otherwise than they were written, and were skipped.", "log")
	spoolUnsynced = gauge("spool_unsynced_seconds", "Age of the oldest record that a power cut would lose now.", "log")
	spoolInterval = gauge("spool_sync_interval_seconds", "How old that may become, by the configuration: 0 if each record is synced; absent if nothing is.", "log")

	clockSynced   = gauge("clock_synchronised", "1 if the gateway knows what time it is; 0 while values carry the quality of their time.")
	reloadOK      = gauge("config_last_reload_successful", "1 if the last configuration that was read was taken; 0 if it had an error and the one before still holds.")
	reloadTime    = gauge("config_last_reload_success_timestamp_seconds", "When a configuration was last taken.")
	reloadRestart = gauge("config_restart_needed", "1 if some of the configuration waits for a restart of the gateway.")
	commandLog    = gauge("command_log_up", "1 if writes can be logged; while they cannot, all commands are refused.")
	certificate   = gauge("certificate_expiry_timestamp_seconds", "When a certificate ends that the gateway shows, by whose it is: broker, or bridge NAME.", "part")
)

// The reasons for which a bridge can lose messages; each is shown from the start,
// so that the first loss is a rise.
var lossReasons = []string{
	bridge.ReasonMaxAge, bridge.ReasonUnreadable, spool.ReasonQuota, spool.ReasonDamage, spool.ReasonQueueFull, spool.ReasonPurged,
}

// A collector reads the figures when it is asked.
type collector func() *Figures

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range metrics {
		out <- m.desc
	}
}

func (c collector) Collect(out chan<- prometheus.Metric) {
	f := c()
	s := sink{out, f}
	s.put(buildInfo, 1, f.Version, runtime.Version())
	for i := range f.Buses {
		s.bus(&f.Buses[i])
	}
	s.broker(&f.Broker)
	for i := range f.Bridges {
		s.bridge(&f.Bridges[i])
	}
	for name, l := range f.Spools {
		s.spool(name, &l)
	}
	s.put(clockSynced, yes(f.Clock.Quality == broker.Exact))
	s.put(reloadOK, yes(f.Reload.OK))
	s.put(reloadTime, s.wall(f.Reload.Good))
	s.put(reloadRestart, yes(f.Reload.Restart))
	s.put(commandLog, yes(f.CommandLog))
	for whose, end := range f.Certificates {
		s.put(certificate, unix(end), whose)
	}
}

// A sink takes the values of one scrape.
type sink struct {
	out chan<- prometheus.Metric
	*Figures
}

func (s *sink) put(m *Metric, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
}

func (s *sink) count(m *Metric, n uint64, labels ...string) { s.put(m, float64(n), labels...) }

// wall is the time of a stamp as it is known now.
func (s *sink) wall(at devices.Stamp) float64 { return unix(s.Clock.Wall(int64(at))) }

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *sink) bus(b *Bus) {
	s.put(busPortUp, yes(!b.PortDown), b.Bus)
	s.put(busLent, yes(b.Lent != ""), b.Bus)
	for _, r := range []struct {
		result string
		n      uint64
	}{
		{"ok", b.OK - b.Refused}, {"exception", b.Refused}, {"timeout", b.Timeouts}, {"bad_reply", b.Errors - b.NoPort}, {"no_port", b.NoPort},
	} {
		s.count(busRequests, r.n, b.Bus, r.result)
	}
	if l := b.Line; l != nil {
		s.spans(busDuration, &b.Taken, b.Bus)
		s.put(busBusy, b.BusyTime.Seconds(), b.Bus)
		s.count(busChecksums, l.CRCErrors, b.Bus)
		s.count(busLate, l.Late, b.Bus)
		s.count(busOpened, l.Opened, b.Bus)
	}
	s.count(busReadings, b.Readings, b.Bus)
	s.count(busDropped, b.Dropped, b.Bus)
	s.count(pollOverruns, b.Overruns, b.Bus)
	for _, v := range b.Values {
		s.put(pointValue, v.V, v.Device, v.Point, v.Unit)
	}
	for i := range b.Devices {
		d := &b.Devices[i]
		if b.Mute[d.Device] {
			continue
		}
		s.put(deviceUp, yes(d.State == devices.Online), b.Bus, d.Device)
		s.put(deviceMaint, yes(d.State == devices.Maintenance), b.Bus, d.Device)
		if d.LastAnswer != 0 {
			s.put(deviceSuccess, s.wall(d.LastAnswer), b.Bus, d.Device)
		}
		s.count(deviceRequests, d.OK, b.Bus, d.Device, "ok")
		s.count(deviceRequests, d.Requests-d.OK, b.Bus, d.Device, "failed")
		for cause, n := range d.Exceptions {
			s.count(deviceRefused, n, b.Bus, d.Device, cause)
		}
	}
}

func (s *sink) spans(m *Metric, spans *devices.Spans, labels ...string) {
	buckets := make(map[float64]uint64, len(devices.SpanBounds))
	sum := uint64(0)
	for i, bound := range devices.SpanBounds {
		sum += spans.Counts[i]
		buckets[bound.Seconds()] = sum
	}
	sum += spans.Counts[len(devices.SpanBounds)]
	s.out <- prometheus.MustNewConstHistogram(m.desc, sum, spans.Sum.Seconds(), buckets, labels...)
}

func (s *sink) broker(b *broker.Stats) {
	s.put(brokerClients, float64(b.Clients))
	s.put(brokerSessions, float64(b.Sessions))
	s.put(brokerSubscriptions, float64(b.Subscriptions))
	s.put(brokerRetained, float64(b.Retained))
	s.count(brokerConnections, b.Connections)
	s.count(brokerErrors, b.ProtocolErrors)
	s.count(brokerMessages, b.MessagesIn, "received")
	s.count(brokerMessages, b.MessagesOut, "sent")
	s.count(brokerBytes, b.BytesIn, "received")
	s.count(brokerBytes, b.BytesOut, "sent")
	for reason, n := range b.Dropped {
		s.count(brokerDropped, n, reason)
	}
}

func (s *sink) bridge(b *bridge.Stats) {
	s.put(bridgeUp, yes(b.State == bridge.Up), b.Name)
	s.count(bridgeReconnects, b.Reconnects, b.Name)
	refused := uint64(0)
	for _, n := range b.Refused { // by words of the far broker, of which there is no bound
		refused += n
	}
	s.count(bridgeMessages, b.Acked, b.Name, "acknowledged")
	s.count(bridgeMessages, refused, b.Name, "refused")
	s.count(bridgePostponed, b.Postponed, b.Name)
	for _, reason := range bridge.SkipReasons {
		s.count(bridgeSkipped, b.Skipped[reason], b.Name, reason)
	}
	s.count(bridgeReceived, b.Received, b.Name, "published")
	s.count(bridgeReceived, b.Rejected, b.Name, "rejected")
	s.put(bridgeInFlight, float64(b.InFlight), b.Name)
	s.out <- prometheus.MustNewConstSummary(bridgeAck.desc, b.Timed, b.AckTime.Seconds(), nil, b.Name)
	for class, l := range b.Backlog {
		s.count(bufferMessages, l.Records, b.Name, class)
		s.put(bufferBytes, float64(l.Bytes), b.Name, class)
		s.put(bufferLimit, float64(s.Spools[class].Size), b.Name, class)
		if l.Records > 0 {
			s.put(bufferOldest, s.wall(s.Now-devices.Stamp(l.Oldest)), b.Name, class)
		}
	}
	for _, reason := range lossReasons {
		s.count(bufferDropped, b.LostBy[reason], b.Name, reason)
	}
}

func (s *sink) spool(name string, l *spool.Stats) {
	s.put(spoolBytes, float64(l.Bytes), name)
	s.put(spoolLimit, float64(l.Size), name)
	s.put(spoolDegraded, yes(l.State != "ok"), name)
	s.count(spoolCommits, l.Commits, name)
	s.count(spoolSyncs, l.Syncs, name)
	s.count(spoolWritten, l.BytesWritten, name)
	s.count(spoolErrors, l.IOErrors, name)
	s.count(spoolDamaged, l.DamagedBytes, name)
	s.put(spoolUnsynced, l.Unsynced.Seconds(), name)
	switch p := s.Sync[name]; p.Mode {
	case spool.Interval:
		s.put(spoolInterval, p.Every.Seconds(), name)
	case spool.Always:
		s.put(spoolInterval, 0, name)
	}
}

// Markdown is the table of the metrics in docs/watching.md.
func Markdown() string {
	var text strings.Builder
	text.WriteString("| Metric | Kind | What |\n|---|---|---|\n")
	for _, m := range metrics {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "{" + strings.Join(m.Labels, ",") + "}"
		}
		fmt.Fprintf(&text, "| `%s%s` | %s | %s |\n", m.Name, labels, m.Type, m.Help)
	}
	return text.String()
}
