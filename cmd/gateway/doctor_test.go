package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"edgegateway/bridge"
	"edgegateway/broker"
	rights "edgegateway/broker/access"
	"edgegateway/broker/spool"
	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/internal/config"
)

var updateDoctor = flag.Bool("update-doctor", false, "write what the doctor finds into testdata/doctor.txt")

// A patient is a machine made up for one finding, well but for what a case
// changes.
type patient struct {
	t      *testing.T
	toml   string
	doctor *doctor
	dialed []string
	probed []bridge.ProbeOptions
}

const wellTOML = `name = "plant-a"
[bus.rs485]
address = "PORT"
baud = 9600
[device.main]
bus = "rs485"
unit_id = 1
points.x = { input = 1 }
`

// at is the time of the patient.
var at = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newPatient(t *testing.T) *patient {
	root := t.TempDir()
	p := &patient{t: t, toml: wellTOML}
	p.doctor = &doctor{opts: &options{config: filepath.Join(t.TempDir(), "config"), state: t.TempDir()}, host: &host{
		root: root, uid: os.Getuid(), gids: []int{os.Getgid()}, now: func() time.Time { return at },
		holders: func(string) []serial.Holder { return nil },
		statfs: func(string) (unix.Statfs_t, error) {
			return unix.Statfs_t{Bsize: 1 << 20, Blocks: 32 << 10, Bavail: 16 << 10, Files: 1e6, Ffree: 1e5}, nil
		},
		dial:  func(_ context.Context, address string) error { p.dialed = append(p.dialed, address); return nil },
		clock: func(bool) (broker.Quality, bool) { return broker.Exact, false },
		probe: func(_ context.Context, _ *config.Bridge, opts bridge.ProbeOptions, tell func(bridge.Step)) error {
			p.probed = append(p.probed, opts)
			tell(bridge.Step{URL: "far:8883", Name: "TCP", OK: true})
			return nil
		},
	}}
	p.write("etc/group", fmt.Sprintf("root:x:0:\ndialout:x:%d:pi\nplugdev:x:77:pi\n", os.Getgid()))
	p.write("dev/ttyUSB0", "")
	p.mode("dev/ttyUSB0", 0o660)
	p.usb("ttyUSB0", "1-1.3", "FT4ABCDE")
	p.link("dev/serial/by-id/usb-FTDI_FT4ABCDE-if00-port0", "../../ttyUSB0")
	p.link("dev/serial/by-path/platform-usb-0:1.3:1.0-port0", "../../ttyUSB0")
	p.write("proc/cmdline", "console=tty1 root=/dev/mmcblk0p2\n")
	p.write("proc/meminfo", "MemTotal: 948304 kB\nMemAvailable: 700000 kB\n")
	p.write("proc/sys/kernel/osrelease", "6.1.0-rpi\n")
	p.write("proc/7/comm", "systemd-timesyn\n")
	p.write("sys/class/rtc/rtc0/name", "ds3231\n")
	p.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
	p.mounts("ext4", "rw,noatime", "rw,commit=5", "tmpfs")
	return p
}

func (p *patient) write(name, text string) { writeFile(p.t, p.doctor.path(name), text) }

func (p *patient) mode(name string, mode os.FileMode) {
	if err := os.Chmod(p.doctor.path(name), mode); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) link(name, to string) {
	path := p.doctor.path(name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(to, path)); err != nil {
		p.t.Fatal(err)
	}
}

// usb plugs an adapter in.
func (p *patient) usb(tty, place, number string) {
	dir := "sys/devices/usb1/" + place
	p.write(dir+"/idVendor", "0403\n")
	p.write(dir+"/idProduct", "6001\n")
	if number != "" {
		p.write(dir+"/serial", number+"\n")
	}
	p.write(dir+"/"+place+":1.0/"+tty+"/port_number", "0\n")
	p.link("sys/class/tty/"+tty+"/device", "../../../devices/usb1/"+place+"/"+place+":1.0/"+tty)
}

// unplug takes the adapter out.
func (p *patient) unplug() {
	for _, name := range []string{"dev/ttyUSB0", "dev/serial", "sys/class/tty/ttyUSB0"} {
		if err := os.RemoveAll(p.doctor.path(name)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// mounts mounts one file system at / and one for the runtime folder.
func (p *patient) mounts(kind, options, super, run string) {
	p.doctor.at = places{state: p.doctor.opts.state, runtime: filepath.Join(p.doctor.opts.state, "run")}
	if err := os.MkdirAll(p.doctor.at.runtime, 0o755); err != nil {
		p.t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(p.doctor.at.runtime)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("proc/self/mountinfo", fmt.Sprintf("20 1 179:2 / / %s shared:1 - %s /dev/mmcblk0p2 %s\n21 20 0:20 / %s rw shared:2 - %s %[5]s rw\n", options, kind, super, real, run))
}

// load reads the configuration; PORT in it is the adapter by its best name.
func (p *patient) load() {
	text := strings.ReplaceAll(p.toml, "PORT", "/dev/serial/by-id/usb-FTDI_FT4ABCDE-if00-port0")
	writeFile(p.t, filepath.Join(p.doctor.opts.config, "gateway.toml"), text)
	p.doctor.configuration()
}

// passwd makes a file of passwords with one user.
func (p *patient) passwd() {
	data, err := rights.SetPassword(nil, "panel", []byte("secret"))
	file := filepath.Join(p.doctor.opts.config, "passwd")
	if err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

// runs has a gateway run that is well.
func (p *patient) runs() *Status {
	p.write("proc/42/comm", "gateway\n")
	p.write("proc/42/status", "Name: gateway\nVmRSS:   40000 kB\n")
	p.doctor.status = &Status{
		Name: "plant-a", Version: version(), PID: 42, Uptime: 3600, Clock: "exact",
		Buses:   []BusStatus{{Address: "x", BusStats: devices.BusStats{Bus: "rs485"}}},
		Devices: []DeviceStatus{{ID: "main", Bus: "rs485", State: "online"}},
		Spools:  map[string]spool.Stats{"telemetry": {State: "ok"}},
	}
	return p.doctor.status
}

// text is what the doctor says.
func (p *patient) text() string {
	var b bytes.Buffer
	p.doctor.print(&b, true)
	text := b.String()
	for from, to := range map[string]string{p.doctor.opts.state: "STATE", p.doctor.opts.config: "CONFIG", p.doctor.root: "ROOT", version(): "VERSION"} {
		text = strings.ReplaceAll(text, from, to)
	}
	return text
}

const bridgeTOML = "[bridge.far]\nurl = \"tls://far\"\nclient_id = \"a\"\nsend = { \"{name}/#\" = \"x/#\" }\n"

// TestDoctor makes one thing wrong at a time. What is said of each is in
// testdata/doctor.txt; what is well says nothing but that.
func TestDoctor(t *testing.T) {
	t.Parallel()
	ports := func(p *patient) { p.load(); p.doctor.ports() }
	disk := func(p *patient) { p.load(); p.doctor.disk() }
	clock := func(p *patient) { p.load(); p.doctor.time() }
	memory := func(p *patient) { p.load(); p.doctor.memory() }
	bridges := func(p *patient) { p.toml += bridgeTOML; p.load(); p.doctor.bridges(t.Context()) }
	running := func(p *patient) {
		p.load()
		p.doctor.status.Config = cmp.Or(p.doctor.status.Config, p.doctor.cfg.Hash())
		p.doctor.versions("running gateway")
		p.doctor.partsOf("running gateway")
	}
	endpoints := func(p *patient) {
		p.toml = strings.Replace(p.toml, "PORT\"\nbaud = 9600", "tcp://10.0.0.5\"", 1)
		p.load()
		p.doctor.endpoints(t.Context())
	}
	network := func(p *patient) { p.load(); p.doctor.broker() }
	mounts := func(kind, options, super, run string) func(p *patient) {
		return func(p *patient) { p.mounts(kind, options, super, run) }
	}
	cases := []struct {
		name   string
		change func(p *patient)
		look   func(p *patient)
	}{
		{"all well", func(p *patient) { p.runs().Config = "" }, func(p *patient) {
			p.load()
			p.doctor.status.Config = p.doctor.cfg.Hash()
			p.doctor.versions("running gateway")
			p.doctor.partsOf("running gateway")
			p.doctor.ports()
			p.doctor.endpoints(t.Context())
			p.doctor.disk()
			p.doctor.time()
			p.doctor.memory()
			p.doctor.bridges(t.Context())
			p.doctor.certificates()
			p.doctor.broker()
		}},
		{"configuration with errors", func(p *patient) { p.toml += "[bus.x]\nbuad = 9600\n" }, (*patient).load},
		{"configuration with warnings", func(p *patient) { p.toml += bridgeTOML + "password = \"hunter2\"\n" }, (*patient).load},
		{"no configuration", func(p *patient) { p.doctor.opts.config = "/nowhere" }, func(p *patient) { p.doctor.configuration() }},

		{"port missing", func(p *patient) {
			p.unplug()
			p.write("dev/ttyAMA0", "")
			p.write("sys/class/tty/ttyAMA0/device/x", "")
		}, ports},
		{"port of root", func(p *patient) {
			p.write("etc/passwd", "gateway:x:4242:4242::/:/bin/false\n")
			p.mode("dev/ttyUSB0", 0o600)
		}, ports},
		{"port of another group", func(p *patient) {
			p.write("etc/passwd", "gateway:x:4242:4242::/:/bin/false\n")
			p.write("etc/group", fmt.Sprintf("dialout:x:99999:\nuucp:x:%d:\n", os.Getgid()))
		}, ports},
		{"port open for the service by dialout", func(p *patient) { p.write("etc/passwd", "gateway:x:4242:4242::/:/bin/false\n") }, ports},
		{"port not for who looks", func(p *patient) { p.doctor.uid, p.doctor.gids = 4243, nil }, ports},
		{"port held", func(p *patient) {
			p.doctor.holders = func(string) []serial.Holder { return []serial.Holder{{Name: "minicom", PID: 1234, User: "pi"}} }
		}, ports},
		{"port held by the gateway itself", func(p *patient) {
			p.runs()
			p.doctor.holders = func(string) []serial.Holder { return []serial.Holder{{Name: "gateway", PID: 42}} }
		}, ports},
		{"latency", func(p *patient) { p.write("sys/devices/usb1/1-1.3/1-1.3:1.0/ttyUSB0/latency_timer", "16\n") }, ports},
		{"latency that the gateway will see to", func(p *patient) {
			p.toml = strings.Replace(p.toml, "[device", "low_latency = true\n[device", 1)
			p.write("sys/devices/usb1/1-1.3/1-1.3:1.0/ttyUSB0/latency_timer", "16\n")
		}, ports},
		{"kernel console", func(p *patient) {
			p.toml = strings.ReplaceAll(p.toml, "PORT", "/dev/serial0")
			p.write("dev/ttyAMA0", "")
			p.mode("dev/ttyAMA0", 0o660)
			p.link("dev/serial0", "ttyAMA0")
			p.write("proc/cmdline", "console=serial0,115200 console=tty1\n")
			p.link("etc/systemd/system/getty.target.wants/serial-getty@ttyAMA0.service", "/lib/systemd/system/serial-getty@.service")
		}, ports},
		{"ModemManager", func(p *patient) { p.write("proc/9/comm", "ModemManager\n") }, ports},
		{"ModemManager without adapters", func(p *patient) {
			p.write("proc/9/comm", "ModemManager\n")
			p.toml = strings.Replace(p.toml, "PORT\"\nbaud = 9600", "tcp://10.0.0.5\"", 1)
		}, ports},
		{"port by number", func(p *patient) { p.toml = strings.ReplaceAll(p.toml, "PORT", "/dev/ttyUSB0") }, ports},
		{"two adapters of one name", func(p *patient) {
			os.Remove(p.doctor.path("sys/devices/usb1/1-1.3/serial"))
			p.usb("ttyUSB1", "1-1.4", "")
		}, ports},
		{"an adapter without number", func(p *patient) { os.Remove(p.doctor.path("sys/devices/usb1/1-1.3/serial")) }, ports},
		{"two ports of one adapter", func(p *patient) { p.usb("ttyUSB1", "1-1.3", "FT4ABCDE") }, ports},

		{"device unreachable", func(p *patient) {
			p.doctor.dial = func(context.Context, string) error {
				return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
		}, endpoints},
		{"device reachable", func(p *patient) {}, endpoints},
		{"device that the gateway has", func(p *patient) { p.runs() }, endpoints},
		{"device that a gateway may have", func(p *patient) { p.doctor.locked = true }, endpoints},
		{"device by UDP", func(p *patient) { p.toml = strings.Replace(p.toml, "PORT\"\nbaud = 9600", "udp://10.0.0.5\"", 1) }, endpoints},

		{"disk nearly full", func(p *patient) {
			p.doctor.statfs = func(string) (unix.Statfs_t, error) {
				return unix.Statfs_t{Bsize: 1 << 20, Blocks: 8 << 10, Bavail: 100, Files: 1e6, Ffree: 50}, nil
			}
		}, disk},
		{"disk small for the buffers", func(p *patient) {
			p.doctor.statfs = func(string) (unix.Statfs_t, error) {
				return unix.Statfs_t{Bsize: 1 << 20, Blocks: 8 << 10, Bavail: 600}, nil
			}
		}, disk},
		{"vfat", mounts("vfat", "rw", "rw", "tmpfs"), disk},
		{"memory", mounts("tmpfs", "rw", "rw", "tmpfs"), disk},
		{"overlay", mounts("overlay", "rw", "rw", "tmpfs"), disk},
		{"nfs", mounts("nfs4", "rw", "rw", "tmpfs"), disk},
		{"btrfs", mounts("btrfs", "rw", "rw", "tmpfs"), disk},
		{"read-only", mounts("ext4", "ro", "ro", "tmpfs"), disk},
		{"mount options", mounts("ext4", "rw,strictatime,sync", "rw,nobarrier,data=writeback,commit=600", "tmpfs"), disk},
		{"ring on the card", mounts("ext4", "rw", "rw", "ext4"), disk},
		{"ring on the card, synced always", func(p *patient) {
			p.mounts("ext4", "rw", "rw", "ext4")
			p.toml += "[spool]\nsync = \"always\"\n"
		}, disk},
		{"fast_commit", func(p *patient) { p.write("proc/sys/kernel/osrelease", "5.10.63-v7+\n"); p.superblock(0x400) }, disk},
		{"no fast_commit", func(p *patient) { p.write("proc/sys/kernel/osrelease", "5.10.63-v7+\n"); p.superblock(0x3c) }, disk},
		{"fast_commit, mended", func(p *patient) { p.write("proc/sys/kernel/osrelease", "5.10.103-v7+\n"); p.superblock(0x400) }, disk},
		{"fast_commit, not to be seen", func(p *patient) { p.write("proc/sys/kernel/osrelease", "5.15.26\n") }, disk},

		{"clock not synchronised", func(p *patient) { p.doctor.clock = func(bool) (broker.Quality, bool) { return broker.Unsynced, false } }, clock},
		{"clock kept by nobody", func(p *patient) {
			p.doctor.clock = func(bool) (broker.Quality, bool) { return broker.Unsynced, false }
			os.Remove(p.doctor.path("proc/7/comm"))
			os.RemoveAll(p.doctor.path("sys/class/rtc"))
		}, clock},
		{"clock unseen", func(p *patient) { p.doctor.clock = func(bool) (broker.Quality, bool) { return broker.Unsynced, true } }, clock},
		{"clock unseen by the gateway", func(p *patient) { p.runs().Clock = "unsynced"; p.write("proc/7/comm", "chronyd\n") }, clock},
		{"clock trusted", func(p *patient) { p.toml = "clock = \"trusted\"\n" + p.toml }, clock},

		{"no memory controller", func(p *patient) { p.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n") }, memory},
		{"no memory controller of old", func(p *patient) {
			os.RemoveAll(p.doctor.path("sys/fs/cgroup"))
			p.write("proc/cgroups", "#subsys_name hierarchy num_cgroups enabled\ncpu 1 1 1\nmemory 0 84 0\n")
		}, memory},
		{"memory gone", func(p *patient) { p.write("proc/meminfo", "MemTotal: 948304 kB\nMemAvailable: 30000 kB\n") }, memory},
		{"memory near its bound", func(p *patient) {
			p.runs()
			p.write("proc/42/cgroup", "0::/system.slice/gateway.service\n")
			p.write("sys/fs/cgroup/system.slice/gateway.service/memory.max", "42000000\n")
		}, memory},

		{"bridge well, nothing runs", func(p *patient) {}, bridges},
		{"bridge, a gateway runs", func(p *patient) { p.runs().Bridges = []bridge.Stats{{Name: "far"}} }, bridges},
		{"bridge up", func(p *patient) { p.runs().Bridges = []bridge.Stats{{Name: "far", State: bridge.Up}} }, bridges},
		{"bridge, perhaps a gateway runs", func(p *patient) { p.doctor.locked = true }, bridges},
		{"bridge without its secrets", func(p *patient) { p.toml += bridgeTOML[:0]; p.doctor.locked = false }, func(p *patient) {
			p.toml += bridgeTOML + "password = \"${cred:none}\"\n"
			p.load()
			p.doctor.bridges(t.Context())
		}},
		{"bridge not reached", func(p *patient) {
			p.doctor.probe = func(_ context.Context, _ *config.Bridge, _ bridge.ProbeOptions, tell func(bridge.Step)) error {
				tell(bridge.Step{URL: "far:8883", Name: "DNS", OK: true})
				tell(bridge.Step{URL: "far:8883", Name: "TCP", Trouble: "nobody listens there"})
				return nil
			}
		}, bridges},

		{"broker open, unencrypted", func(p *patient) {
			p.passwd()
			p.toml += "[broker]\nlisten = [\"tcp://0.0.0.0\"]\npasswords = \"passwd\"\n"
		}, network},
		{"broker open to the nameless", func(p *patient) {
			p.passwd()
			p.toml += "[broker]\nlisten = [\"tcp://0.0.0.0\"]\npasswords = \"passwd\"\nanonymous = true\n[broker.user.anonymous]\nread = [\"{name}/#\"]\n"
		}, network},
		{"socket for all", func(p *patient) { p.toml += "[broker]\nlisten = [\"unix:///run/x.sock\"]\nsocket_mode = \"0666\"\n" }, network},

		{"another version", func(p *patient) { p.runs().Version = "0.1" }, running},
		{"program replaced", func(p *patient) { p.runs(); p.link("proc/42/exe", "/usr/bin/gateway (deleted)") }, running},
		{"not reloaded", func(p *patient) { p.runs().Config = "old" }, running},
		{"reload failed", func(p *patient) { p.runs().Reload = &ReloadStatus{Error: "gateway.toml:3:1: what is that"} }, running},
		{"restart needed", func(p *patient) { p.runs().Reload = &ReloadStatus{OK: true, Restart: []string{"broker"}} }, running},
		{"parts in trouble", func(p *patient) {
			s := p.runs()
			s.Buses = []BusStatus{
				{BusStats: devices.BusStats{Bus: "rs485", PortDown: true, PortError: "open /dev/x: no such port"}},
				{BusStats: devices.BusStats{Bus: "hall"}, Hint: "nobody answers, and not a byte comes"},
				{BusStats: devices.BusStats{Bus: "plc", Lent: "a scan"}}, {BusStats: devices.BusStats{Bus: "well"}},
			}
			s.Devices = append(s.Devices, DeviceStatus{ID: "tank", Bus: "well", State: "offline", LastError: "timeout"},
				DeviceStatus{ID: "odd", Bus: "well", State: "online", Points: []PointStatus{{Name: "x", Error: "illegal data address"}}})
			s.Bridges = []bridge.Stats{{Name: "far", State: bridge.Down, Since: at.Add(-time.Hour), LastError: "the far broker says not authorized"}}
			s.Spools["telemetry"] = spool.Stats{State: "degraded"}
			s.Spools["critical"] = spool.Stats{State: "ok", RingFailed: true, DamagedBytes: 4096, Dropped: map[string]uint64{"quota": 17}}
			s.Writes = "no space left on device"
			s.Listen = []string{"cannot listen at 127.0.0.1:1883"}
		}, running},
	}
	var all strings.Builder
	for _, c := range cases {
		p := newPatient(t)
		c.change(p)
		c.look(p)
		fmt.Fprintf(&all, "== %s\n%s\n", c.name, p.text())
		for _, f := range p.doctor.findings {
			if (f.Level == failure || f.Level == warning) && f.Remedy == "" && f.Area != "bridges" {
				t.Errorf("%s: %q has no remedy", c.name, f.Text)
			}
		}
	}
	const file = "testdata/doctor.txt"
	if *updateDoctor {
		writeFile(t, file, all.String())
		return
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(string(golden), "\n== ")
	got := strings.Split(all.String(), "\n== ")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("-update-doctor writes what is right into %s; case %d, got:\n%s\nwant:\n%s", file, i, strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""), strings.Join(want[min(i, len(want)):min(i+1, len(want))], ""))
		}
	}
}

// superblock makes one of ext4 with some features.
func (p *patient) superblock(features uint16) {
	block := make([]byte, 4096)
	block[1024+0x38], block[1024+0x39] = 0x53, 0xEF
	block[1024+0x5C], block[1024+0x5D] = byte(features), byte(features>>8)
	p.write("dev/mmcblk0p2", string(block))
}

// A doctor logs in nowhere while a gateway runs, or may run.
func TestDoctorLogsInAlone(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *patient)
		login  bool
	}{
		"nothing runs": {func(*patient) {}, true},
		"it runs":      {func(p *patient) { p.runs() }, false},
		"it may run":   {func(p *patient) { p.doctor.locked = true }, false},
	} {
		p := newPatient(t)
		p.toml += bridgeTOML
		c.change(p)
		p.load()
		p.doctor.bridges(t.Context())
		if len(p.probed) != 1 || p.probed[0].NoLogin == c.login {
			t.Errorf("%s: %+v", name, p.probed)
		}
	}
}

func TestDoctorLooksAtCertificates(t *testing.T) {
	for _, c := range []struct {
		from, until time.Duration
		level       level
		text        string
	}{
		{-24 * time.Hour, 900 * 24 * time.Hour, fine, "good until"},
		{-900 * 24 * time.Hour, 20*24*time.Hour + time.Hour, warning, "in 20 days"},
		{-900 * 24 * time.Hour, -time.Hour, failure, "expired at 2026-11-20: clients refuse it"},
		{time.Hour, 900 * 24 * time.Hour, failure, "good from 2026-11-20 13:00:00 on only"},
	} {
		p := newPatient(t)
		p.doctor.certificate("certificates", "broker", "x.crt", &x509.Certificate{Subject: pkix.Name{CommonName: "x"}, NotBefore: at.Add(c.from), NotAfter: at.Add(c.until)}, "clients refuse it", "renew it")
		if f := p.doctor.findings[0]; f.Level != c.level || !strings.Contains(f.Text, c.text) {
			t.Errorf("%+v", f)
		}
	}
}

// What programs get holds all that people see.
func TestDoctorAsJSON(t *testing.T) {
	text, err := json.Marshal(finding{"disk", failure, "/var", "full", "make room"})
	if want := `{"area":"disk","level":"FAIL","about":"/var","text":"full","remedy":"make room"}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}
