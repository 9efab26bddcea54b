package clients

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A program is one of mosquitto's, in a version of the protocol and over a
// transport that it speaks.
type program struct {
	version string
	at      []string // the arguments that say where the broker is
	name    string   // begins its topics
}

// programs returns mosquitto's in all versions over all transports: they know
// no WebSocket.
func programs(g *gateway) (all []program) {
	for _, version := range []string{"31", "311", "5"} {
		for _, transport := range []string{"tcp", "tls", "unix"} {
			all = append(all, program{version, at(g.urls[transport]), "mosquitto " + version + " " + transport})
		}
	}
	return all
}

// at returns the arguments for an address.
func at(url string) []string {
	scheme, address, _ := strings.Cut(url, "://")
	if scheme == "unix" {
		return []string{"--unix", address}
	}
	host, port, _ := strings.Cut(address, ":")
	args := []string{"-h", host, "-p", port}
	if scheme == "tls" {
		args = append(args, "--cafile", keys.path("ca.crt"))
	}
	return args
}

// command is a run of mosquitto_pub or mosquitto_sub, which speaks line by line.
func (p program) command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "stdbuf", slices.Concat([]string{"-oL", name, "-V", p.version}, p.at, args)...)
}

// pub publishes what args say, and stdin, if they say so.
func (p program) pub(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := p.command(t, "mosquitto_pub", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("mosquitto_pub %.100q: %v\n%.1000s", args, err, out)
	}
}

// A listener is a mosquitto_sub that has subscribed.
type listener struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// plain is what listeners print of a message.
const plain = "%t %q %r %p"

// sub returns when the subscription is confirmed.
func (p program) sub(t *testing.T, format string, args ...string) *listener {
	t.Helper()
	l := p.listen(t, format, args...)
	for l.lines.Scan() {
		if strings.Contains(l.lines.Text(), "Subscribed (mid") {
			return l
		}
	}
	t.Fatalf("mosquitto_sub %q ended without a subscription: %v", args, l.cmd.Wait())
	return nil
}

func (p program) listen(t *testing.T, format string, args ...string) *listener {
	t.Helper()
	cmd := p.command(t, "mosquitto_sub", append([]string{"-d", "-F", "=" + format}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &listener{t, cmd, bufio.NewScanner(out)}
	l.lines.Buffer(nil, 1<<20)
	return l
}

// rest returns the messages until mosquitto_sub ends.
func (l *listener) rest() (messages []string) {
	l.t.Helper()
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

func (l *listener) kill() {
	l.cmd.Process.Kill()
	l.cmd.Wait()
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("%d lines, want %d; from the first difference on %.200q, want %.200q", len(got), len(want), got[min(i, len(got)):], want[min(i, len(want)):])
			return
		}
	}
}

// lines are the numbers 1 to n, each on a line, and how a listener prints them.
func lines(topic string, qos byte, n int) (stdin string, printed []string) {
	for i := range n {
		stdin += fmt.Sprintln(i + 1)
		printed = append(printed, fmt.Sprintf("%s %d 0 %d", topic, qos, i+1))
	}
	return stdin, printed
}

// TestMosquittoPrograms is what mosquitto_pub and mosquitto_sub show.
func TestMosquittoPrograms(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "")
	for _, p := range programs(g) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			t.Run("streams", p.streams)
			t.Run("retained", p.retained)
			t.Run("will", p.will)
			t.Run("session", p.session)
			t.Run("large", p.large)
			if p.version == "5" {
				t.Run("properties", p.properties)
				t.Run("aliases", p.aliases)
				t.Run("shared", p.shared)
			}
		})
	}
}

func (p program) topic(rest string) string { return p.name + "/Größe/" + rest }

func (p program) streams(t *testing.T) {
	for qos := range byte(3) {
		topic, q := p.topic(fmt.Sprint("stream ", qos)), fmt.Sprint(qos)
		l := p.sub(t, plain, "-q", q, "-t", topic, "-C", fmt.Sprint(many))
		stdin, want := lines(topic, qos, many)
		p.pub(t, stdin, "-q", q, "-t", topic, "-l")
		sameLines(t, l.rest(), want)
	}
}

func (p program) retained(t *testing.T) {
	topic := p.topic("retained")
	p.pub(t, "", "-q", "1", "-t", topic, "-m", "kept", "-r")
	l := p.sub(t, plain, "-q", "1", "-t", p.topic("#"), "-C", "2")
	p.pub(t, "", "-q", "1", "-t", topic, "-n", "-r")
	sameLines(t, l.rest(), []string{topic + " 1 1 kept", topic + " 1 0 "})
	l = p.sub(t, plain, "-q", "1", "-t", p.topic("#"), "-C", "1")
	p.pub(t, "", "-q", "1", "-t", topic, "-m", "fresh")
	sameLines(t, l.rest(), []string{topic + " 1 0 fresh"})
}

func (p program) will(t *testing.T) {
	topic := p.topic("will")
	l := p.sub(t, plain, "-q", "1", "-t", topic, "-C", "1")
	mortal := p.sub(t, plain, "-t", "x", "--will-topic", topic, "--will-payload", "gone", "--will-qos", "1", "--will-retain")
	mortal.kill()
	sameLines(t, l.rest(), []string{topic + " 1 0 gone"})
	sameLines(t, p.sub(t, plain, "-q", "1", "-t", topic, "-C", "1").rest(), []string{topic + " 1 1 gone"})
}

func (p program) session(t *testing.T) {
	name := "s" + strings.ReplaceAll(strings.TrimPrefix(p.name, "mosquitto "), " ", "") // 3.1 allows 23 bytes
	for qos := byte(1); qos <= 2; qos++ {
		topic, q, id := p.topic(fmt.Sprint("missed ", qos)), fmt.Sprint(qos), fmt.Sprint(name, qos)
		p.sub(t, plain, "-c", "-i", id, "-q", q, "-t", topic, "-E").rest()
		stdin, want := lines(topic, qos, many)
		p.pub(t, stdin, "-q", q, "-t", topic, "-l")
		sameLines(t, p.listen(t, plain, "-c", "-i", id, "-q", q, "-t", topic, "-C", fmt.Sprint(many)).rest(), want)
	}
}

func (p program) large(t *testing.T) {
	topic, payload := p.topic("a topic with spaces/für große Nachrichten/日本"), strings.Repeat("x", 200<<10)
	file := filepath.Join(t.TempDir(), "payload")
	writeFile(t, file, payload)
	l := p.sub(t, plain, "-q", "2", "-t", topic, "-C", "3")
	for _, qos := range []string{"0", "1", "2"} {
		p.pub(t, "", "-q", qos, "-t", topic, "-f", file)
	}
	got := l.rest()
	slices.Sort(got) // what comes from several clients has no order among them
	sameLines(t, got, []string{topic + " 0 0 " + payload, topic + " 1 0 " + payload, topic + " 2 0 " + payload})
}

func (p program) properties(t *testing.T) {
	topic := p.topic("question")
	l := p.sub(t, "%p|%C|%R|%D|%E|%F|%P|%S", "-q", "1", "-t", topic, "-C", "1", "-D", "subscribe", "subscription-identifier", "268435455")
	var args []string
	for _, property := range [][]string{
		{"content-type", "text/plain"}, {"response-topic", p.topic("answer")}, {"correlation-data", "no. 7"}, {"message-expiry-interval", "1000000"},
		{"payload-format-indicator", "1"}, {"user-property", "größe", "1"}, {"user-property", "größe", "2"},
	} {
		args = append(args, append([]string{"-D", "publish"}, property...)...)
	}
	p.pub(t, "", append(args, "-q", "1", "-t", topic, "-m", "yes?")...)
	sameLines(t, l.rest(), []string{"yes?|text/plain|" + p.topic("answer") + "|no. 7|1000000|1|größe:1 größe:2|268435455"})
}

// aliases has mosquitto_pub name its topic once for all messages.
func (p program) aliases(t *testing.T) {
	topic := p.topic("alias")
	l := p.sub(t, plain, "-q", "1", "-t", topic, "-C", "20")
	stdin, want := lines(topic, 1, 20)
	p.pub(t, stdin, "-q", "1", "-t", topic, "-l", "-D", "publish", "topic-alias", "5")
	sameLines(t, l.rest(), want)
}

func (p program) shared(t *testing.T) {
	topic := p.topic("work")
	share := func() *listener {
		return p.sub(t, "%p", "-q", "1", "-t", "$share/group/"+topic, "-t", topic+"/end", "-C", fmt.Sprint(many))
	}
	workers := []*listener{share(), share()}
	stdin, _ := lines(topic, 1, many)
	p.pub(t, stdin, "-q", "1", "-t", topic, "-l")
	seen := make(map[string]int)
	for i, l := range workers {
		// The end, again and again until there are as many messages as it waits for.
		go func() {
			cmd := p.command(t, "mosquitto_pub", "-q", "1", "-t", topic+"/end", "-l")
			cmd.Stdin = strings.NewReader(strings.Repeat("end\n", many))
			cmd.Run()
		}()
		got := slices.DeleteFunc(l.rest(), func(s string) bool { return s == "end" })
		if len(got) == 0 {
			t.Errorf("worker %d got nothing", i)
		}
		for _, m := range got {
			seen[m]++
		}
	}
	for n := range many {
		if seen[fmt.Sprint(n+1)] != 1 {
			t.Errorf("%d was given out %d times", n+1, seen[fmt.Sprint(n+1)])
		}
	}
}

// TestMosquittoUsers shows mosquitto's programs passwords, client certificates
// and rights.
func TestMosquittoUsers(t *testing.T) {
	t.Parallel()
	passwords := filepath.Join(t.TempDir(), "passwd")
	for _, user := range []string{"panel", "forgetful"} {
		passwd(t, passwords, user, "secret of "+user)
	}
	g := newGateway(t, `
passwords = "`+passwords+`"
client_ca = "`+keys.path("ca.crt")+`"
client_certificates = "optional"
[broker.user.panel]
read  = ["open/#"]
write = ["open/#"]
`)
	for _, p := range programs(g) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			logins := [][]string{{"-u", "panel", "-P", "secret of panel"}}
			if strings.HasSuffix(p.name, "tls") {
				logins = append(logins, []string{"--cert", keys.path("panel.crt"), "--key", keys.path("panel.key")})
			}
			for _, login := range logins {
				p.rights(t, login)
			}
			for _, login := range [][]string{{}, {"-u", "forgetful", "-P", "wrong"}} {
				p.fails(t, "mosquitto_pub", "Connection error", append(login, "-t", "open/x", "-m", "no", "-q", "1")...)
			}
		})
	}
}

func (p program) rights(t *testing.T, login []string) {
	topic := "open/" + p.name
	l := p.sub(t, plain, append(login, "-q", "1", "-t", "+/"+p.name, "-C", "1")...)
	if p.version == "5" {
		p.says(t, "mosquitto_pub", "Not authorized", append(login, "-t", "closed/"+p.name, "-m", "no", "-q", "1")...)
	} else {
		p.pub(t, "", append(login, "-t", "closed/"+p.name, "-m", "no", "-q", "1")...) // acknowledged and dropped
	}
	p.pub(t, "", append(login, "-t", topic, "-m", "yes", "-q", "1")...)
	sameLines(t, l.rest(), []string{topic + " 1 0 yes"})
	if p.version != "31" { // a SUBACK of 3.1 cannot refuse
		p.says(t, "mosquitto_sub", "All subscription requests were denied", append(login, "-t", "closed/#", "-C", "1")...)
	}
}

// says runs a program until it ends, and fails unless it prints that.
func (p program) says(t *testing.T, name, what string, args ...string) {
	t.Helper()
	if out, _ := p.command(t, name, args...).CombinedOutput(); !strings.Contains(string(out), what) {
		t.Errorf("%s %q says %.500q, want %q", name, args, out, what)
	}
}

// fails runs a program and fails unless it ends with an error and prints that.
func (p program) fails(t *testing.T, name, what string, args ...string) {
	t.Helper()
	out, err := p.command(t, name, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), what) {
		t.Errorf("%s %q: %v: %.500q, want %q", name, args, err, out, what)
	}
}
