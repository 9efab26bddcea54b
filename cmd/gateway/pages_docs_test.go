package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/BurntSushi/toml"

	"edgegateway/devices"
	"edgegateway/internal/config"
)

// The README and all pages of docs are held against the program here: each
// configuration loads, each JSON parses, each command exists as it is written, each
// link leads somewhere, and each command line of a code block is run on a simulated
// plant. What a page says beyond that has tests of its own.

// pages returns README.md and docs/*.md by their paths in the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d pages: %v", len(paths), err)
	}
	all := make(map[string]string)
	for _, p := range append(paths, "../../README.md") {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p, "../../")] = string(text)
	}
	return all
}

// A block is a code block of a page.
type block struct{ lang, body string }

func blocksOf(text string) (list []block) {
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		list = append(list, block{m[1], m[2]})
	}
	return list
}

// madeOfReference is made of reference.toml, which has a test of its own.
const madeOfReference = "docs/reference-configuration.md"

// TestPagesShowRightConfigurations loads each TOML block: by itself, or laid over the
// first one or all those before it on its page, as a reader would who follows the page.
// A block that begins with "# in [TABLE]" belongs into that table. Whoever has no bus
// has a line called rs485.
func TestPagesShowRightConfigurations(t *testing.T) {
	dir := t.TempDir()
	if err := writeDemoKeys(dir); err != nil {
		t.Fatal(err)
	}
	pem := make(map[string]string)
	for _, ext := range []string{".crt", ".key"} {
		text, err := os.ReadFile(filepath.Join(dir, "credentials", "gateway"+ext))
		if err != nil {
			t.Fatal(err)
		}
		pem[ext] = string(text)
	}
	list, err := os.ReadFile("../../configs/examples/plc-list/plc.csv")
	if err != nil {
		t.Fatal(err)
	}
	loads := func(doc map[string]any) error {
		dir := t.TempDir()
		var text bytes.Buffer
		if err := toml.NewEncoder(&text).Encode(doc); err != nil {
			return err
		}
		for _, m := range regexp.MustCompile(`\$\{cred:([\w.-]+)\}|"([\w./-]+\.(?:crt|key|pem|csv|password)|passwd|acl)"`).FindAllStringSubmatch(text.String(), -1) {
			name, content := m[2], pem[path.Ext(m[2])]
			if m[1] != "" {
				name, content = "credentials/"+m[1], pem[path.Ext(m[1])]
			}
			switch {
			case strings.HasPrefix(name, "/"):
				continue
			case strings.HasSuffix(name, ".csv"):
				content = string(list)
			case strings.HasSuffix(name, "azure.key"), strings.HasSuffix(name, "hub.key"):
				content = "YSBkZXZpY2Uga2V5"
			case name == "acl", name == "passwd":
			case name == "credentials/proxy":
				content = "http://user:password@proxy.example.com:3128"
			case content == "":
				content = "secret"
			}
			writeFile(t, filepath.Join(dir, name), content)
			if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(dir, "gateway.toml"), text.String())
		_, report := config.Load(dir, config.Options{SecretsElsewhere: true})
		return report.Err()
	}
	n := 0
	for page, text := range pages(t) {
		if page == madeOfReference {
			continue
		}
		base := func() map[string]any {
			return map[string]any{"name": "plant-a", "bus": map[string]any{"rs485": map[string]any{"address": "/dev/ttyUSB0", "baud": 9600}}}
		}
		before, first := base(), map[string]any{}
		for _, b := range blocksOf(text) {
			switch b.lang {
			case "json":
				var v any
				if err := json.Unmarshal([]byte(b.body), &v); err != nil {
					t.Errorf("%s: %v in\n%s", page, err, b.body)
				}
				continue
			case "toml":
			default:
				continue
			}
			n++
			if m := regexp.MustCompile(`^# in (\[.*\])\n`).FindStringSubmatch(b.body); m != nil {
				b.body = m[1] + "\n" + b.body
			}
			var doc map[string]any
			if _, err := toml.Decode(b.body, &doc); err != nil {
				t.Errorf("%s: %v in\n%s", page, err, b.body)
				continue
			}
			first, before = laidOver(base(), first), laidOver(before, doc)
			alone := loads(laidOver(base(), doc))
			if alone != nil && loads(laidOver(first, doc)) != nil {
				if err := loads(before); err != nil {
					t.Errorf("%s: by itself: %v; over those before it: %v\n%s", page, alone, err, b.body)
				}
			}
			if len(first) == len(base()) {
				first = before
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d configurations", n)
	}
}

// laidOver is under with what over says.
func laidOver(under, over map[string]any) map[string]any {
	all := maps.Clone(under)
	for k, v := range over {
		u, isTable := all[k].(map[string]any)
		if o, both := v.(map[string]any); both && isTable {
			v = laidOver(u, o)
		}
		all[k] = v
	}
	return all
}

// programs are the words with which a line of a code block is a command line.
var programs = []string{
	"gateway", "sudo", "mosquitto_sub", "mosquitto_pub", "mosquitto_rr", "mosquitto_passwd", "systemctl", "journalctl", "openssl", "curl", "go", "ls", "cp", "mkdir", "tar", "docker", "podman",
	"stty", "socat", "minicom", "mbpoll", "./test.sh", "./install.sh", "packaging/build.sh",
}

// A shownLine is a command line in a code block, without what explains it: that
// stands behind two blanks.
type shownLine struct {
	page, line string
	want       string // what the page shows that it prints
}

// continued is where a line of a shell goes on in the next one.
var continued = regexp.MustCompile(`\s*\\\n\s*`)

func shownLines(page, text string) (list []shownLine) {
	for _, b := range blocksOf(text) {
		if b.lang != "" && b.lang != "sh" {
			continue
		}
		var last *shownLine
		example := false // a line behind "$ ", of which the page shows what it may print
		for line := range strings.Lines(continued.ReplaceAllString(b.body, " ")) {
			line = strings.TrimSuffix(line, "\n")
			command := strings.TrimPrefix(line, "$ ")
			first, _, _ := strings.Cut(command, " ")
			example = example && first != "gateway" || command != line
			isOne := slices.Contains(programs, first)
			if b.lang == "sh" && !isOne && line != "" && !strings.HasPrefix(line, "#") && last == nil {
				isOne = true
			}
			switch {
			case isOne:
				explained := regexp.MustCompile(`^((?:[^"' ]|"[^"]*"|'[^']*'| \S)+?)\s{2,}\S.*$`)
				if m := explained.FindStringSubmatch(command); m != nil {
					command = m[1]
				}
				list = append(list, shownLine{page: page, line: strings.TrimSpace(command)})
				last = &list[len(list)-1]
			case last != nil && !strings.HasPrefix(line, "          ") && (!example || strings.ToUpper(line) == line): // of an example the titles
				last.want += line + "\n"
			}
		}
	}
	return list
}

// ofGateway matches a command line of the gateway, with its arguments.
var ofGateway = regexp.MustCompile(`^(?:sudo (?:-u \S+ )?)?gateway ([a-z].*)`)

var shellWord = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)

// TestPagesShowCommandsThatExist parses each `gateway …`, in code blocks and in the
// text, with all its flags and arguments.
func TestPagesShowCommandsThatExist(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		var lines []string
		for _, l := range shownLines(page, text) {
			lines = append(lines, l.line)
		}
		prose := regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
		for _, m := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(prose, -1) {
			if line := strings.Join(strings.Fields(m[1]), " "); ofGateway.MatchString(line + " ") {
				lines = append(lines, line)
			}
		}
		for _, line := range lines {
			for part := range strings.SplitSeq(line, "&&") {
				m := ofGateway.FindStringSubmatch(strings.TrimSpace(part) + " ")
				if m == nil {
					continue
				}
				n++
				args := regexp.MustCompile(`[<>] \S+`).ReplaceAllString(m[1], "")
				var words []string
				for _, w := range shellWord.FindAllString(args, -1) {
					words = append(words, strings.Trim(w, `"'`))
				}
				words = slices.DeleteFunc(words, func(w string) bool { return w == "--help" }) // all have it
				if err := parseCommand(words); err != nil {
					t.Errorf("%s: %s: %v", page, line, err)
				}
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d commands", n)
	}
}

// parseCommand has cobra take a command line, but for running it. A command that is
// only named needs no arguments.
func parseCommand(words []string) error {
	cmd, rest, err := newRoot().Find(words)
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("%s has no command %s", cmd.CommandPath(), rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if len(rest) == 0 {
		return nil
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// TestPagesLeadSomewhere follows each link to a file or a chapter.
func TestPagesLeadSomewhere(t *testing.T) {
	all, n := pages(t), 0
	for page, text := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			n++
			file, chapter, _ := strings.Cut(m[1], "#")
			target := path.Join(path.Dir(page), file)
			if file == "" {
				target = page
			}
			if _, err := os.Stat(filepath.Join("../..", target)); err != nil {
				t.Errorf("%s leads to %s: %v", page, m[1], err)
			} else if chapter != "" && !slices.Contains(chaptersOf(all[target]), chapter) {
				t.Errorf("%s leads to %s, where there is no such chapter", page, m[1])
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d links", n)
	}
	for page := range all {
		if page != "README.md" && !strings.Contains(all["README.md"], "]("+page+")") {
			t.Errorf("README.md does not lead to %s", page)
		}
	}
}

// chaptersOf lists what links call the chapters of a page.
func chaptersOf(text string) (names []string) {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	for _, h := range regexp.MustCompile("(?m)^#+ (.*)$").FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\w -]`).ReplaceAllString(strings.ToLower(h[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// TestPagesQuoteTheProgram looks for the messages in the tables of pages that have no
// test of their own.
func TestPagesQuoteTheProgram(t *testing.T) {
	source, n := goSource(t), 0
	for _, page := range []string{"docs/plc.md", "docs/sensors.md"} {
		text := pages(t)[page]
		for _, row := range regexp.MustCompile(`(?m)^\| .* \|$`).FindAllString(text, -1) {
			said := strings.Contains(row, "null with")
			if _, table, _ := strings.Cut(text, "| Refused |"); !said && !strings.Contains(table, row) {
				continue
			}
			cell := strings.Split(row, "|")[1]
			if said {
				_, cell, _ = strings.Cut(row, "null with")
			}
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
				n++
				if !strings.Contains(source, m[1]) {
					t.Errorf("%s: the program does not say %q", page, m[1])
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("only %d messages", n)
	}
}

// notRun are the lines that are not run here, by the reason. One that ends in … stands
// for all that begin so.
var notRun = map[string][]string{
	"packaging/system_test.go does it on a booted system": {
		"sudo apt install ./gateway_1.2.3-1_arm64.deb", "sudo apt install ./gateway_1.2.4-1_arm64.deb", "sudo apt remove gateway", "sudo apt purge gateway",
		"sudo systemctl enable --now gateway", "sudo systemctl restart gateway", "sudo systemctl reload gateway", "systemctl reload gateway", "systemctl status gateway",
		"sudo systemctl daemon-reload", "journalctl -u gateway -n 50",
		"sudo mkdir -p /etc/systemd/system/gateway.service.d", "sudo cp /usr/share/doc/gateway/examples/credentials.conf /etc/systemd/system/gateway.service.d/",
		"tar xzf gateway_1.2.3_linux_arm64.tar.gz", "sudo ./install.sh", "gateway check && sudo systemctl restart gateway",
	},
	"needs chrony as the system's keeper of time": {"sudo cp /usr/share/doc/gateway/examples/chrony.conf /etc/systemd/system/gateway.service.d/"},
	"needs a program for containers and an image": {"cp /etc/ssl/certs/ca-certificates.crt .", "tar xzf gateway_1.2.3_linux_arm64.tar.gz --strip-components=1", "podman…"},
	"is what CI runs":                                    {"./test.sh", "packaging/build.sh dist"},
	"TestDemoLosesNothing runs it":                       {"gateway demo", "gateway demo --for 30s --json", "gateway demo --keep plant", "go run ./cmd/gateway demo"},
	"another gateway beside this one is refused":         {"gateway run", "gateway run --read-only --log-level info,modbus=debug"},
	"TestApplyReplacesAndGoesBack runs it":               {"sudo gateway apply plant-2026-11.tar.gz --confirm 10m", "gateway apply plant-2026-11.tar.gz --confirm 10m", "gateway apply --back"},
	"TestSecretEncrypted runs it":                        {"gateway secret set aws.key --encrypt < plant-a.private.key", "sudo gateway secret set aws.key --encrypt < plant-a.private.key"},
	"TestBrokerPageTellsTheTruth runs it":                {"openssl…", "mosquitto_sub -h gateway.local -p 8883 --cafile ca.crt --cert panel.crt --key panel.key -t 'plant-a/#' -v"},
	"takes long; TestScanTriesSpeedsOfAPort has it":      {"gateway scan rs485 --units 1 --speeds all", "gateway scan /dev/ttyUSB0 --speeds 9600,19200/8E1"},
	"TestUnitsSayWhoTheyAre asks a device that has":      {"gateway read rs485/7 identity"},
	"TestNewcomer and TestInitAsks answer its questions": {"gateway init…", "sudo gateway init…"},
	"TestInitUnattended has such a line":                 {"gateway scan rtu+tcp://192.168.10.7:4001 --units 1-20"},
	"the socket is that of an installed gateway":         {"mosquitto_sub --unix /run/gateway/mqtt.sock -t 'plant-a/#' -v"},
}

// unrun is the entry of notRun for a line, "" if it is to be run.
func unrun(line string) string {
	for _, entries := range notRun {
		for _, e := range entries {
			if begin, whole := strings.CutSuffix(e, "…"); e == line || whole && strings.HasPrefix(line, begin) {
				return e
			}
		}
	}
	return ""
}

// shorter makes of a line what takes less time, or is meant for this plant.
func (p *pagePlant) shorter(line string) string {
	line = strings.NewReplacer(
		"192.168.10.0/28:1502", "127.0.0.1/32:"+p.plc, "192.168.10.0/28", "127.0.0.1/32:"+p.plc, "192.168.10.5", "127.0.0.1:"+p.plc,
		"127.0.0.1:9273", "127.0.0.1:"+p.web,
		"--for 5m", "--for 200ms", "--for 10s", "--for 200ms", "--pcap rs485.pcap", "--for 200ms --pcap rs485.pcap", "purge old", "purge old --yes",
		"simulate --fault", "simulate --config plant --fault", "/tmp/", "./",
	).Replace(line)
	if strings.HasPrefix(line, "gateway replay") {
		line = strings.Replace(line, "--for 200ms ", "", 1)
	}
	if strings.HasPrefix(line, "gateway scan") {
		line += " --timeout 500ms --units 1"
	}
	return line
}

// changesState are lines that have to be run each time, for others come after them.
var changesState = regexp.MustCompile(`gateway (pause|mute|hold|release)`)

// endless are lines that end when somebody ends them.
var endless = regexp.MustCompile(`^gateway (monitor|read .*--every|replay .*--(pty|listen)|simulate)`)

// TestPagesCommandLinesRun runs each command line of all code blocks as a user would
// type it, in the order of the pages, beside one gateway and its simulated plant, and
// compares what it prints where the page shows that.
func TestPagesCommandLinesRun(t *testing.T) {
	p := newPagePlant(t)
	ran := 0
	seen, used := make(map[string]bool), make(map[string]bool)
	all := pages(t)
	for _, page := range slices.Sorted(maps.Keys(all)) {
		for _, l := range shownLines(page, all[page]) {
			if e := unrun(l.line); e != "" {
				used[e] = true
				continue
			}
			if seen[l.line] && l.want == "" && !changesState.MatchString(l.line) {
				continue
			}
			seen[l.line] = true
			ran++
			p.runs(l)
		}
	}
	if ran < 100 {
		t.Errorf("only %d command lines", ran)
	}
	for _, entries := range notRun {
		for _, e := range entries {
			if !used[e] {
				t.Errorf("no page shows %s any more", e)
			}
		}
	}
}

// recorded is the capture that pages play.
const recorded = "rs485-20261120-230600.capture"

// A pagePlant is the gateway, and the folder, in which the lines are run.
type pagePlant struct {
	*site
	dir      string
	plc, web string // ports
}

func newPagePlant(t *testing.T) *pagePlant {
	far := freePort(t)
	s := newSite(t, "", nil)
	p := &pagePlant{site: s, dir: t.TempDir(), plc: freePort(t), web: freePort(t)}
	writeFile(t, filepath.Join(s.config, "gateway.toml"), fmt.Sprintf(`
name = "plant-a"
[broker]
listen = ["tcp://127.0.0.1:%s"]
[web]
listen = "127.0.0.1:%s"
[bus.rs485]
address = "/dev/ttyUSB0"
baud = 1000000
[bus.plc]
address = "tcp://127.0.0.1:%s"
[bus.mast]
address = "/dev/ttyUSB1"
baud = 4800
protocol = "lines"
[bridge.aws]
url = "tcp://127.0.0.1:%s"
send = { "{name}/+" = "dt/{name}/+" }
unsynced = "flag"
[bridge.old]
url = "tcp://127.0.0.1:1"
send = { "{name}/+/_status" = "dt/{name}/+/_status" }
unsynced = "flag"
[homeassistant]
[device.main]
bus = "rs485"
profile = "eastron/sdm630"
unit_id = 1
[device.tank]
bus = "rs485"
unit_id = 7
[device.tank.points]
temperature = { holding = 12, type = "i16", scale = 0.1, unit = "°C" }
first    = { holding = 10, type = "bytes(4)" }
rest     = { holding = 13, type = "bytes(14)" }
voltage  = { holding = 20, type = "f32", unit = "V" }
setpoint = { holding = 31, type = "i16", scale = 0.1, unit = "°C", write = { min = 30, max = 85 } }
high     = { holding = 100, type = "bytes(42)" }
meter    = { input = 52, type = "f32" }
queue    = { fifo = 200 }
[device.boiler]
bus = "plc"
unit_id = 1
[device.boiler.points]
setpoint  = { ref = 40103, type = "i16", scale = 0.1, unit = "°C", write = { min = 30, max = 85, step = 0.5 } }
mode      = { holding = 100, enum = { 0 = "off", 1 = "auto", 2 = "manual" }, write = true }
pump      = { coil = 0, write = true }
power     = { ref = 40071, unit = "W", write = true }
voltage   = { holding = 71, unit = "V", write = true }
flow_temp = { input = 10, type = "i16", scale = 0.1, unit = "°C" }
[device.wind]
bus = "mast"
checksum = "nmea"
[device.wind.line.MWV]
speed = { field = 3, type = "f64", unit = "kn" }
`, s.broker, p.web, p.plc, far))
	start(t, mosquittoPath(), "-p", far)
	sim := start(t, binary, s.args("simulate", "--site", filepath.Join(s.config, "site.toml"))...)
	eventually(t, "the plant is up", func() bool { return strings.Contains(sim.out.String(), "The addresses are in") })
	s.run()
	for _, dev := range []string{"main", "tank", "boiler", "wind"} {
		eventually(t, dev+" is read", func() bool { return s.deviceIs(dev, devices.Online) })
	}

	// The programs find this gateway and its broker.
	bin := filepath.Join(p.dir, "bin")
	for name, script := range map[string]string{
		"gateway":       `exec ` + binary + ` --config ` + s.config + ` --state ` + s.state + ` "$@"`,
		"sudo":          `if [ "$1" = -u ]; then shift 2; fi; exec "$@"`,
		"mosquitto_sub": `exec /usr/bin/mosquitto_sub -p ` + s.broker + ` -C 1 -W 20 "$@"`,
		"mosquitto_rr":  `exec /usr/bin/mosquitto_rr -p ` + s.broker + ` -W 20 "$@"`,
		"mosquitto_pub": `exec /usr/bin/mosquitto_pub -p ` + s.broker + ` "$@"`,
	} {
		writeFile(t, filepath.Join(bin, name), "#!/bin/sh\n"+script+"\n")
		if err := os.Chmod(filepath.Join(bin, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What the lines are given.
	for name, text := range map[string]string{
		"plant/gateway.toml":  fmt.Sprintf("name = \"other\"\n[bus.rs485]\naddress = \"/dev/ttyUSB7\"\nbaud = 9600\n[device.meter]\nbus = \"rs485\"\nunit_id = 7\npoints.x = { input = 1 }\n[device.boiler]\nbus = \"tcp://127.0.0.1:%s\"\nunit_id = 1\npoints.x = { input = 1 }\n", freePort(t)),
		"plant-a.private.key": "a key",
	} {
		writeFile(t, filepath.Join(p.dir, name), text)
	}
	for _, line := range []string{
		"gateway write boiler.power 1520",
		"gateway write boiler.voltage 231",
		"gateway profiles show eastron/sdm630 --file > mymeter.toml",
		"gateway capture rs485 --for 1200ms -o " + recorded,
	} {
		p.runs(shownLine{"this test", line, ""})
	}
	return p
}

// runs runs one line.
func (p *pagePlant) runs(l shownLine) {
	p.t.Helper()
	line := p.shorter(l.line)
	made, _ := filepath.Glob(filepath.Join(p.dir, "rs485*")) // by lines before, which would not be replaced
	for _, file := range made {
		if filepath.Base(file) != recorded {
			os.Remove(file)
		}
	}
	if !strings.Contains(line, "&&") {
		line = "exec " + line
	}
	cmd := exec.Command("sh", "-ec", line)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(p.dir, "bin")+":"+os.Getenv("PATH"))
	cmd.Stdin = strings.NewReader("a password\n")
	var out, talk buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	if endless.MatchString(l.line) && !strings.Contains(l.line, "--once") {
		eventually(p.t, l.line+" says something", func() bool { return out.String()+talk.String() != "" || len(done) > 0 })
		cmd.Process.Signal(syscall.SIGINT)
		if err = <-done; cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGINT {
			err = nil
		}
	} else {
		err = <-done
	}
	if strings.Contains(l.line, "gateway doctor") && cmd.ProcessState.ExitCode() == exitFailed {
		err = nil // what it finds here is not what the page is about
	}
	if err != nil {
		p.t.Errorf("%s: %s (run as %s): %v\n%s%s", l.page, l.line, line, err, out.String(), talk.String())
	}
	for want := range strings.Lines(l.want) {
		if !strings.Contains(asShown(out.String()), asShown(want)) {
			p.t.Errorf("%s: %s prints\n%snot\n%s", l.page, l.line, out.String(), want)
		}
	}
}

// asShown leaves out what differs each time: times, sizes, the port.
func asShown(text string) string {
	text = regexp.MustCompile(` +\n`).ReplaceAllString(text, "\n")
	text = regexp.MustCompile(`(?m)^/\S+ is free`).ReplaceAllString(text, "PORT is free")
	text = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`).ReplaceAllString(text, "TIME")
	text = regexp.MustCompile(`\d[\d.]*( [KM]?i?B| [ms]*s ago)?`).ReplaceAllString(text, "N")
	return regexp.MustCompile(` +`).ReplaceAllString(text, " ")
}
