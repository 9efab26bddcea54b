package metrics

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"edgegateway/bridge"
	"edgegateway/broker"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/modbus"
)

// scrape returns the lines of f that tell of the gateway itself.
func scrape(t *testing.T, f *Figures) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(func() *Figures { return f }).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	lines := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		if at := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, prefix) {
			lines[strings.TrimPrefix(line[:at], prefix)] = strings.TrimSpace(line[at:])
		}
	}
	return lines
}

func TestFiguresAreShown(t *testing.T) {
	second := devices.Stamp(time.Second)
	taken := devices.Spans{Sum: 3 * time.Second}
	taken.Counts[0], taken.Counts[3], taken.Counts[len(devices.SpanBounds)] = 5, 2, 1
	f := &Figures{
		Version: "1.2.3", Now: 1000 * second, Clock: broker.Clock{Offset: int64(1_790_000_000 * second), Quality: broker.Exact},
		Buses: []Bus{
			{
				BusStats: devices.BusStats{
					Bus: "plc", Requests: 20, OK: 12, Refused: 2, Timeouts: 3, Errors: 5, NoPort: 1, BusyTime: 1500 * time.Millisecond, Taken: taken,
					Devices: []devices.DeviceStats{
						{Device: "boiler", State: devices.Online, Requests: 10, OK: 9, LastAnswer: 990 * second, Exceptions: map[string]uint64{"illegal data address": 2}},
						{Device: "away", State: devices.Stale, Requests: 10, OK: 3, LastAnswer: 900 * second},
						{Device: "never", State: devices.Maintenance},
						{Device: "horn"},
					},
				},
				Line: &modbus.Stats{CRCErrors: 4, Late: 1, Opened: 2}, Readings: 77, Mute: map[string]bool{"horn": true},
				Values: []Value{{"boiler", "setpoint", "°C", 55.5}},
			},
			{BusStats: devices.BusStats{Bus: "mast", PortDown: true, Lent: "a scan"}},
		},
		Bridges: []bridge.Stats{{
			Name: "aws", State: bridge.Up, Acked: 40, Timed: 30, AckTime: 6 * time.Second, Refused: map[string]uint64{"not authorised": 2, "too large": 1},
			Skipped: map[string]uint64{"own": 6, bridge.ReasonMaxAge: 9}, LostBy: map[string]uint64{bridge.ReasonMaxAge: 9},
			Backlog: map[string]bridge.Backlog{"telemetry": {Records: 3, Bytes: 900, Oldest: 100 * time.Second}, "critical": {}},
		}},
		Spools: map[string]spool.Stats{"telemetry": {Size: 1 << 20, State: "degraded"}, "critical": {Size: 1 << 10, State: "ok"}, "sessions": {State: "ok"}},
		Sync:   map[string]spool.Policy{"telemetry": {Every: 5 * time.Second}, "critical": {Mode: spool.Always}, "sessions": {Mode: spool.Off}},
		Reload: Reload{Good: 500 * second, Restart: true},

		Certificates: map[string]time.Time{"bridge aws": time.Unix(1_800_000_000, 0)},
	}
	got := scrape(t, f)
	for name, want := range map[string]string{
		`bus_port_up{bus="plc"}`:                                                              "1",
		`bus_port_up{bus="mast"}`:                                                             "0",
		`bus_lent{bus="mast"}`:                                                                "1",
		`bus_requests_total{bus="plc",result="ok"}`:                                           "10",
		`bus_requests_total{bus="plc",result="exception"}`:                                    "2",
		`bus_requests_total{bus="plc",result="timeout"}`:                                      "3",
		`bus_requests_total{bus="plc",result="bad_reply"}`:                                    "4",
		`bus_requests_total{bus="plc",result="no_port"}`:                                      "1",
		`bus_busy_seconds_total{bus="plc"}`:                                                   "1.5",
		`bus_busy_seconds_total{bus="mast"}`:                                                  "", // nothing is asked there
		`bus_request_duration_seconds_count{bus="mast"}`:                                      "",
		`bus_request_duration_seconds_count{bus="plc"}`:                                       "8",
		`bus_request_duration_seconds_sum{bus="plc"}`:                                         "3",
		`bus_request_duration_seconds_bucket{bus="plc",le="0.001"}`:                           "5",
		`bus_request_duration_seconds_bucket{bus="plc",le="0.01"}`:                            "7",
		`bus_request_duration_seconds_bucket{bus="plc",le="5"}`:                               "7",
		`bus_request_duration_seconds_bucket{bus="plc",le="+Inf"}`:                            "8",
		`bus_checksum_errors_total{bus="plc"}`:                                                "4",
		`device_up{bus="plc",device="boiler"}`:                                                "1",
		`device_up{bus="plc",device="away"}`:                                                  "0",
		`device_up{bus="plc",device="never"}`:                                                 "0",
		`device_up{bus="plc",device="horn"}`:                                                  "", // it never answers, and is not ill
		`device_maintenance{bus="plc",device="never"}`:                                        "1",
		`device_last_success_timestamp_seconds{bus="plc",device="boiler"}`:                    "1.79000099e+09",
		`device_last_success_timestamp_seconds{bus="plc",device="never"}`:                     "",
		`device_requests_total{bus="plc",device="away",result="failed"}`:                      "7",
		`device_exceptions_total{bus="plc",device="boiler",exception="illegal data address"}`: "2",
		`point_value{device="boiler",point="setpoint",unit="°C"}`:                             "55.5",
		`bridge_ack_seconds_count{bridge="aws"}`:                                              "30",
		`bridge_ack_seconds_sum{bridge="aws"}`:                                                "6",
		`bridge_up{bridge="aws"}`:                                                             "1",
		`bridge_messages_total{bridge="aws",result="refused"}`:                                "3",
		`bridge_skipped_total{bridge="aws",reason="own"}`:                                     "6",
		`bridge_skipped_total{bridge="aws",reason="unmatched"}`:                               "0",
		`bridge_skipped_total{bridge="aws",reason="max_age"}`:                                 "", // that is a loss
		`buffer_dropped_total{bridge="aws",reason="max_age"}`:                                 "9",
		`buffer_dropped_total{bridge="aws",reason="quota"}`:                                   "0", // from the start, or its first rise is missed
		`buffer_bytes{bridge="aws",class="telemetry"}`:                                        "900",
		`buffer_limit_bytes{bridge="aws",class="telemetry"}`:                                  "1.048576e+06",
		`buffer_oldest_timestamp_seconds{bridge="aws",class="telemetry"}`:                     "1.7900009e+09",
		`buffer_oldest_timestamp_seconds{bridge="aws",class="critical"}`:                      "",
		`spool_degraded{log="telemetry"}`:                                                     "1",
		`spool_degraded{log="critical"}`:                                                      "0",
		`spool_sync_interval_seconds{log="telemetry"}`:                                        "5",
		`spool_sync_interval_seconds{log="critical"}`:                                         "0",
		`spool_sync_interval_seconds{log="sessions"}`:                                         "", // nothing is synced
		`clock_synchronised`:                                                                  "1",
		`command_log_up`:                                                                      "0",
		`config_last_reload_successful`:                                                       "0",
		`config_last_reload_success_timestamp_seconds`:                                        "1.7900005e+09",
		`config_restart_needed`:                                                               "1",
		`certificate_expiry_timestamp_seconds{part="bridge aws"}`:                             "1.8e+09",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	f.Clock.Quality = broker.Bounded
	if got := scrape(t, f); got["clock_synchronised"] != "0" {
		t.Errorf("the time is only bounded, but clock_synchronised is %s", got["clock_synchronised"])
	}
}

// BenchmarkScrape is a large site: 100 buses with ten devices each.
func BenchmarkScrape(b *testing.B) {
	f := &Figures{Spools: map[string]spool.Stats{"telemetry": {}}, Bridges: []bridge.Stats{{Name: "aws"}}}
	for i := range 100 {
		bus := Bus{BusStats: devices.BusStats{Bus: fmt.Sprint("bus", i)}, Line: new(modbus.Stats)}
		for j := range 10 {
			bus.Devices = append(bus.Devices, devices.DeviceStats{Device: fmt.Sprint("device", i, "-", j), State: devices.Online, LastAnswer: 1})
		}
		f.Buses = append(f.Buses, bus)
	}
	h := Handler(func() *Figures { return f })
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil))
	}
}
