package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of CPU time in /proc/PID/stat.
const tick = 10 * time.Millisecond

// Paths are the binaries to measure, and settings for ours.
type paths struct {
	gateway, mosquitto string
	config             string // lines of our [broker] table
	nagle              bool
	before             string // "", or another gateway instead of mosquitto
}

// A peer is a broker that can be started.
type peer struct {
	name string
	// command writes a configuration into dir and returns what starts it.
	command func(dir string, port int) (*exec.Cmd, error)
}

func (p paths) peers(only string) []peer {
	var peers []peer
	both := []peer{{"gateway", p.gatewayCommand}, {"mosquitto", p.mosquittoCommand}}
	if p.before != "" {
		before := p
		before.gateway = p.before
		both[1] = peer{"before", before.gatewayCommand}
	}
	for _, peer := range both {
		if only == "" || only == peer.name {
			peers = append(peers, peer)
		}
	}
	return peers
}

func (p paths) gatewayCommand(dir string, port int) (*exec.Cmd, error) {
	config := filepath.Join(dir, "config")
	if err := os.MkdirAll(config, 0o755); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("name = \"load\"\n[broker]\nlisten = [\"tcp://127.0.0.1:%d\"]\n%s\n", port, p.config)
	cmd := exec.Command(p.gateway, "run", "--config", config, "--state", filepath.Join(dir, "state"))
	return cmd, os.WriteFile(filepath.Join(config, "gateway.toml"), []byte(text), 0o644)
}

func (p paths) mosquittoCommand(dir string, port int) (*exec.Cmd, error) {
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o777); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`listener %d 127.0.0.1
allow_anonymous true
set_tcp_nodelay %v
max_queued_messages 0
max_inflight_messages 0
user root
persistence true
persistence_location %s/
autosave_interval 30
`, port, !p.nagle, state)
	file := filepath.Join(dir, "mosquitto.conf")
	return exec.Command(p.mosquitto, "-c", file), os.WriteFile(file, []byte(text), 0o644)
}

// A server is a broker that runs.
type server struct {
	name, addr, dir string
	cmd             *exec.Cmd
	log             *os.File
	began           time.Duration // from start to its first answer
}

// start starts p in dir and waits until it answers.
func (p peer) start(dir string) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return p.startAt(dir, port)
}

func (p peer) startAt(dir string, port int) (*server, error) {
	cmd, err := p.command(dir, port)
	if err != nil {
		return nil, err
	}
	s := &server{name: p.name, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), dir: dir, cmd: cmd}
	if s.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	from := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for time.Since(from) < 5*time.Minute {
		if c, err := dial(s.addr, options{id: "first"}); err == nil {
			s.began = time.Since(from)
			c.Close()
			return s, nil
		}
		time.Sleep(time.Millisecond)
	}
	s.stop()
	said, _ := os.ReadFile(s.log.Name())
	return nil, fmt.Errorf("%s does not answer: %s", p.name, said)
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// stop asks the broker to stop, and ends it if it does not.
func (s *server) stop() {
	defer s.log.Close()
	s.cmd.Process.Signal(syscall.SIGTERM)
	end := time.AfterFunc(2*time.Minute, func() { s.cmd.Process.Kill() })
	defer end.Stop()
	s.cmd.Wait()
}

// with starts p in a new folder, runs fn, and stops it.
func (p peer) with(fn func(*server) error) error {
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := p.start(dir)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := fn(s); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// cpu returns the CPU time that the broker has used.
func (s *server) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The name in brackets may hold anything; utime and stime are 12 and 13
	// fields behind it.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

// memory returns VmRSS or VmHWM, its peak, in MB.
func (s *server) memory(field string) float64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(raw), field+":")
	var kb float64
	fmt.Sscan(rest, &kb)
	return kb / 1024
}

// disk returns the bytes of the broker's state, in MB.
func (s *server) disk() float64 {
	var n int64
	filepath.WalkDir(filepath.Join(s.dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return nil
	})
	return float64(n) / (1 << 20)
}
