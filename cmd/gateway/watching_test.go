package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"edgegateway/internal/metrics"
)

// promtool runs Prometheus' own check of something, in dir and with input. What
// it has to say fails the test.
func promtool(t *testing.T, dir, input string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatal("promtool is missing (./test.sh installs what the tests need): apt-get install prometheus")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil || input != "" && len(out) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// get asks a gateway that runs with a [web] table.
func get(t *testing.T, web, path string) (body string, code int) {
	t.Helper()
	resp, err := http.Get("http://127.0.0.1:" + web + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), resp.StatusCode
}

// scrape returns the value of each series.
func scrape(t *testing.T, web string) map[string]float64 {
	t.Helper()
	text, code := get(t, web, "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, text)
	}
	series := make(map[string]float64)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		series[line[:at]] = v
	}
	return series
}

// metricName is the name of a series, its suffixes of histograms and summaries
// left out.
func metricName(series string) string {
	name, _, _ := strings.Cut(series, "{")
	if strings.Contains(name, "_duration_seconds") || strings.Contains(name, "_ack_seconds") {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
	}
	return name
}

// TestWatching looks at a gateway with all kinds of trouble as Prometheus does:
// a device that is silent, one that refuses, a bus without a port, a bridge that
// is down. The numbers follow what happens.
func TestWatching(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	web, plc, gone := freePort(t), freePort(t), freePort(t)
	head := fmt.Sprintf("[bus.plc]\naddress = \"tcp://127.0.0.1:%s\"\ntimeout = \"200ms\"\n[bus.gone]\naddress = \"tcp://127.0.0.1:%s\"\n[web]\nlisten = \"127.0.0.1:%s\"\nvalues = true\n", plc, gone, web)
	s := newSite(t, head+c.bridge("send = { \"{name}/#\" = \"dt/{name}/#\" }\n"), map[string]string{"a": `
[devices.m]
bus = "plc"
unit_ids = "1-3"
every = "100ms"
points.a = { holding = 0 }
[device.lost]
bus = "gone"
unit_id = 1
points.a = { holding = 0 }
`})
	sim := start(t, binary, s.args("simulate", "--bus", "plc", "--fault", "m-2:silent", "--fault", "m-3:exception=2")...)
	s.run()
	is := func(name string, want float64) func() bool {
		return func() bool { v, ok := scrape(t, web)[name]; return ok && v == want }
	}
	for name, want := range map[string]float64{
		`gateway_device_up{bus="plc",device="m-1"}`:   1,
		`gateway_device_up{bus="plc",device="m-2"}`:   0,
		`gateway_device_up{bus="gone",device="lost"}`: 0,
		`gateway_bus_port_up{bus="plc"}`:              1,
		`gateway_bus_port_up{bus="gone"}`:             0,
		`gateway_bridge_up{bridge="cloud"}`:           0,
		`gateway_config_last_reload_successful`:       1,
		`gateway_command_log_up`:                      1,
	} {
		eventually(t, fmt.Sprintf("%s is %v", name, want), is(name, want))
	}
	for _, name := range []string{
		`gateway_bus_requests_total{bus="plc",result="ok"}`,
		`gateway_bus_requests_total{bus="plc",result="timeout"}`,
		`gateway_bus_requests_total{bus="plc",result="exception"}`,
		`gateway_bus_requests_total{bus="gone",result="no_port"}`,
		`gateway_bus_busy_seconds_total{bus="plc"}`,
		`gateway_bus_request_duration_seconds_count{bus="plc"}`,
		`gateway_device_exceptions_total{bus="plc",device="m-3",exception="illegal data address"}`,
		`gateway_buffer_bytes{bridge="cloud",class="telemetry"}`,
		`gateway_certificate_expiry_timestamp_seconds{part="bridge cloud"}`,
		`process_open_fds`, `go_goroutines`,
	} {
		eventually(t, name+" rises", func() bool { return scrape(t, web)[name] > 0 })
	}

	text, _ := get(t, web, "/metrics")
	promtool(t, "", text, "check", "metrics")
	shown := make(map[string]bool)
	for name := range scrape(t, web) {
		shown[metricName(name)] = true
	}
	for _, m := range metrics.All() {
		if !shown[m.Name] || !strings.Contains(text, "# TYPE "+m.Name+" "+m.Type+"\n") {
			t.Errorf("%s is no %s that is shown", m.Name, m.Type)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(watched(t))) {
		if !shown[metricName(name)] {
			t.Errorf("the dashboard or an alert asks for %s, which is not shown", name)
		}
	}

	for _, path := range []string{"/livez", "/readyz"} { // in spite of all that
		if body, code := get(t, web, path); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	body, _ := get(t, web, "/status")
	var st Status
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.Name != "plant" || len(st.Devices) != 4 || len(st.Bridges) != 1 {
		t.Errorf("/status: %v\n%s", err, body)
	}
	for _, secret := range []string{"secret-of-the-gateway", "PRIVATE KEY"} {
		if strings.Contains(text+body, secret) {
			t.Errorf("%q is shown", secret)
		}
	}

	// The cloud comes, the plant goes.
	c.start()
	eventually(t, "the bridge is up", is(`gateway_bridge_up{bridge="cloud"}`, 1))
	eventually(t, "messages are delivered", func() bool {
		return scrape(t, web)[`gateway_bridge_messages_total{bridge="cloud",result="acknowledged"}`] > 0
	})
	eventually(t, "how long that takes is shown", func() bool {
		now := scrape(t, web)
		return now[`gateway_bridge_ack_seconds_count{bridge="cloud"}`] > 0 && now[`gateway_bridge_ack_seconds_sum{bridge="cloud"}`] > 0
	})
	value := `gateway_point_value{device="m-1",point="a",unit=""}`
	if _, ok := scrape(t, web)[value]; !ok {
		t.Errorf("there is no %s", value)
	}
	sim.kill()
	eventually(t, "the port is missed", is(`gateway_bus_port_up{bus="plc"}`, 0))
	eventually(t, "its devices are missed", is(`gateway_device_up{bus="plc",device="m-1"}`, 0))
	if _, ok := scrape(t, web)[value]; ok {
		t.Errorf("%s is shown of a device that does not answer", value)
	}

	// A reload that fails, one that waits for a restart, and a good one.
	file := filepath.Join(s.config, "gateway.toml")
	read, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	good := string(read)
	before := scrape(t, web)["gateway_config_last_reload_success_timestamp_seconds"]
	for _, step := range []struct {
		text        string
		ok, restart float64
	}{
		{strings.Replace(good, "[web]", "[wbe]", 1), 0, 0},
		{strings.Replace(good, "127.0.0.1:"+web, "127.0.0.1:"+freePort(t), 1), 1, 1},
		{strings.Replace(good, "[web]", "[wbe]", 1), 0, 1},
		{good, 1, 0},
	} {
		writeFile(t, file, step.text)
		s.cmd.Process.Signal(syscall.SIGHUP)
		eventually(t, fmt.Sprintf("reloaded: %v, restart needed: %v", step.ok, step.restart), func() bool {
			now := scrape(t, web)
			return now["gateway_config_last_reload_successful"] == step.ok && now["gateway_config_restart_needed"] == step.restart
		})
	}
	if now := scrape(t, web)["gateway_config_last_reload_success_timestamp_seconds"]; now <= before {
		t.Errorf("the last good reload was at %v, the start at %v", now, before)
	}
}

// An alert or a panel asks by expressions.
type rule struct {
	Record string `json:"record"`
	Expr   string `json:"expr"`
}

const observe = "../../configs/observe"

// dashboardQueries returns the expressions of all panels, and the queries of the
// variables.
func dashboardQueries(t *testing.T) (exprs, variables []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(observe, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Inputs []struct{ Name string } `json:"__inputs"`
		Panels []struct {
			Type, Title string
			Targets     []struct {
				Expr       string
				Datasource struct{ UID string }
			}
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Inputs) != 1 || board.Inputs[0].Name != "DS_PROMETHEUS" {
		t.Errorf("the inputs of the dashboard are %v", board.Inputs)
	}
	known := make(map[string]bool)
	for _, v := range board.Templating.List {
		known["$"+v.Name] = true
		variables = append(variables, v.Definition)
	}
	for _, name := range []string{"$bus", "$device", "$bridge"} {
		if !known[name] {
			t.Errorf("the dashboard has no variable %s", name)
		}
	}
	for _, p := range board.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, v := range regexp.MustCompile(`\$\w+`).FindAllString(target.Expr, -1) {
				if !known[v] && v != "$__rate_interval" {
					t.Errorf("panel %q uses %s, which is no variable", p.Title, v)
				}
			}
			if target.Datasource.UID != "${DS_PROMETHEUS}" {
				t.Errorf("panel %q asks %q", p.Title, target.Datasource.UID)
			}
			exprs = append(exprs, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	return exprs, variables
}

var (
	anyMetric = regexp.MustCompile(`\b(gateway|process|go)_[a-z_]+`)
	selector  = regexp.MustCompile(`\b(gateway_[a-z_]+)\{([^}]*)\}`)
	matched   = regexp.MustCompile(`(\w+)\s*[=!]~?\s*"`)
)

// watched returns the metrics that the dashboard and the alerts ask for, and
// checks the labels by which they do.
func watched(t *testing.T) map[string]bool {
	t.Helper()
	exprs, variables := dashboardQueries(t)
	alerts, err := os.ReadFile(filepath.Join(observe, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, m := range metrics.All() {
		labels[m.Name] = append([]string{"job", "instance", "le"}, m.Labels...)
	}
	all := strings.Join(slices.Concat(exprs, variables, []string{string(alerts)}), "\n")
	for _, s := range selector.FindAllStringSubmatch(all, -1) {
		for _, l := range matched.FindAllStringSubmatch(s[2], -1) {
			if known := labels[metricName(s[1])]; !slices.Contains(known, l[1]) {
				t.Errorf("%s is asked for by its label %s and has only %v", s[1], l[1], known)
			}
		}
	}
	names := make(map[string]bool)
	for _, name := range anyMetric.FindAllString(all, -1) {
		names[name] = true
	}
	if len(names) < 25 {
		t.Errorf("only %d metrics are watched", len(names))
	}
	return names
}

// Prometheus itself reads the alerts and each expression of the dashboard, and
// each alert is fired by the unit test beside it.
func TestAlertsAndDashboard(t *testing.T) {
	t.Parallel()
	promtool(t, observe, "", "check", "rules", "alerts.yml")
	promtool(t, observe, "", "test", "rules", "alerts_test.yml")
	alerts, err := os.ReadFile(filepath.Join(observe, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(observe, "alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(alerts), -1)
	if len(names) < 10 {
		t.Errorf("only %d alerts", len(names))
	}
	for _, a := range names {
		if !strings.Contains(string(tests), `'{alertname="`+a[1]+`"}'`) {
			t.Errorf("alerts_test.yml does not fire %s", a[1])
		}
	}

	exprs, _ := dashboardQueries(t)
	var rules []rule
	for i, expr := range exprs {
		rules = append(rules, rule{fmt.Sprintf("panel:%d", i), expr})
	}
	// JSON is YAML, too.
	text, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "dashboard.yml"), string(text))
	promtool(t, dir, "", "check", "rules", "dashboard.yml")
}

// TestWatchingPageTellsTheTruth does what docs/watching.md shows, with Prometheus
// and nginx as they come from Debian.
func TestWatchingPageTellsTheTruth(t *testing.T) {
	read, err := os.ReadFile("../../docs/watching.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	if !strings.Contains(text, "\n\n"+metrics.Markdown()) {
		t.Errorf("the table of the metrics is not this:\n%s", metrics.Markdown())
	}
	blocks := make(map[string]string)
	for _, b := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks[b[1]] += b[2]
	}
	cfg := loadPage(t, t.TempDir(), blocks["toml"])
	if cfg.Web == "" || !strings.Contains(blocks["yaml"], `"`+cfg.Web+`"`) || !strings.Contains(blocks["nginx"], "http://"+cfg.Web+";") {
		t.Errorf("the page does not ask where it listens, %q", cfg.Web)
	}

	dir := t.TempDir()
	alerts, err := os.ReadFile(filepath.Join(observe, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "alerts.yml"), string(alerts))
	writeFile(t, filepath.Join(dir, "prometheus.yml"), blocks["yaml"])
	promtool(t, dir, "", "check", "config", "prometheus.yml")

	// The proxy lets in who has the password, over TLS, and nobody else.
	web, proxy := freePort(t), freePort(t)
	s := newSite(t, "[web]\nlisten = \"127.0.0.1:"+web+"\"\n", map[string]string{"boiler": oneBoiler})
	s.run()
	if err := writeDemoKeys(dir); err != nil {
		t.Fatal(err)
	}
	password := exec.CommandContext(t.Context(), "sh", "-ec", `printf "watcher:$(openssl passwd -apr1 -stdin)\n"`)
	password.Stdin = strings.NewReader("let me see\n")
	line, err := password.Output()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "gateway.passwd"), string(line))
	server := strings.NewReplacer("listen 9443", "listen 127.0.0.1:"+proxy, cfg.Web, "127.0.0.1:"+web,
		"/etc/nginx/gateway.passwd", dir+"/gateway.passwd", "/etc/nginx/gateway.", dir+"/credentials/cloud.").Replace(blocks["nginx"])
	writeFile(t, filepath.Join(dir, "nginx.conf"), "daemon off;\nmaster_process off;\npid "+dir+"/nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
		"client_body_temp_path "+dir+"/b;\nproxy_temp_path "+dir+"/p;\nfastcgi_temp_path "+dir+"/f;\nuwsgi_temp_path "+dir+"/u;\nscgi_temp_path "+dir+"/s;\n"+server+"}\n")
	start(t, nginxPath(), "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // whom it shows is not the point here
	ask := func(path, password string) (string, int) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://127.0.0.1:"+proxy+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			req.SetBasicAuth("watcher", password)
		}
		resp, err := client.Do(req)
		if err != nil {
			return err.Error(), 0
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		body.ReadFrom(resp.Body)
		return body.String(), resp.StatusCode
	}
	eventually(t, "nginx passes on", func() bool {
		body, code := ask("/metrics", "let me see")
		return code == 200 && strings.Contains(body, "gateway_build_info{")
	})
	for _, test := range []struct {
		path, password string
		code           int
	}{{"/status", "let me see", 200}, {"/metrics", "", 401}, {"/status", "", 401}, {"/metrics", "guess", 401}, {"/livez", "let me see", 404}} {
		if body, code := ask(test.path, test.password); code != test.code {
			t.Errorf("%s with %q: %d, want %d\n%s", test.path, test.password, code, test.code, body)
		}
	}
}

func nginxPath() string {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path
	}
	return "/usr/sbin/nginx" // not in everybody's PATH
}
