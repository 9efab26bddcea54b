package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A system is a Debian booted by its own systemd as process 1 of namespaces.
type system struct {
	t      *testing.T
	pid    string // of that process 1, here
	exited chan struct{}
	files  string // its root folder, seen from here
}

// longRoot skips a test that takes long, or needs root where this is not.
func longRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("GATEWAY_LONG") == "" {
		t.Skip("only in the long run: GATEWAY_LONG=1")
	}
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED HERE: the packages on booted systems: only root may make namespaces and file systems")
	}
}

// debian returns the root folder of a minimal Debian; GATEWAY_ROOTS names a
// folder that keeps them between runs.
func debian(t *testing.T, suite string) string {
	t.Helper()
	root := filepath.Join(os.Getenv("GATEWAY_ROOTS"), suite)
	if os.Getenv("GATEWAY_ROOTS") == "" {
		root = filepath.Join(t.TempDir(), suite)
	} else if _, err := os.Stat(filepath.Join(root, "usr/bin/systemctl")); err == nil {
		return root
	}
	// From where this machine has its own packages.
	mirrors, err := output(exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian", "Created-By: Packages"))
	mirror, _, _ := strings.Cut(mirrors, "\n")
	if err != nil || mirror == "" {
		t.Fatalf("no Debian mirror is configured for apt here: %v", err)
	}
	if _, err := output(exec.Command("debootstrap", "--variant=minbase", "--include=systemd,dbus,udev,init-system-helpers,procps", suite, root, mirror)); err != nil {
		t.Fatalf("%v (apt-get install debootstrap)", err)
	}
	return root
}

func boot(t *testing.T, suite string) *system {
	t.Helper()
	root, layer := debian(t, suite), t.TempDir()
	s := &system{t: t, exited: make(chan struct{})}
	var talk bytes.Buffer
	cmd := exec.Command("sh", "testdata/boot.sh", root, layer)
	cmd.Stdout, cmd.Stderr = &talk, &talk
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when the thread ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() // --kill-child: and with it process 1, and so all
		<-s.exited
	})
	s.await("systemd is process 1", func() bool {
		select {
		case <-s.exited:
			t.Fatalf("%s did not boot: %s", suite, talk.String())
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		s.pid = strings.TrimSpace(string(children))
		comm, _ := os.ReadFile("/proc/" + s.pid + "/comm")
		return string(comm) == "systemd\n"
	})
	s.files = "/proc/" + s.pid + "/root"
	s.await("booted", func() bool {
		state, _ := s.try("systemctl is-system-running")
		return state == "running" || state == "degraded"
	})
	return s
}

// await polls what happens in other processes.
func (s *system) await(what string, cond func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// try runs a shell command in the system.
func (s *system) try(script string) (out string, code int) {
	cmd := exec.Command("nsenter", "--target", s.pid, "--all", "sh", "-c", script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	text, _ := cmd.CombinedOutput()
	return strings.TrimSpace(string(text)), cmd.ProcessState.ExitCode()
}

// run is try for what has to succeed.
func (s *system) run(script string) string {
	s.t.Helper()
	out, code := s.try(script)
	if code != 0 {
		s.t.Fatalf("%s: exit code %d\n%s\n%s", script, code, out, s.journal())
	}
	return out
}

func (s *system) expect(script, want string) string {
	s.t.Helper()
	out := s.run(script)
	if !strings.Contains(out, want) {
		s.t.Errorf("%s: want %q in\n%s", script, want, out)
	}
	return out
}

func (s *system) journal() string {
	out, _ := s.try("journalctl --unit gateway --no-pager --output cat | tail -40")
	return out
}

func (s *system) write(path, text string) {
	s.t.Helper()
	path = s.files + path
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// property returns one of the service.
func (s *system) property(name string) string {
	s.t.Helper()
	return s.run("systemctl show --property " + name + " --value gateway")
}

// another waits for an active service that is another process than before.
func (s *system) another(before string) {
	s.t.Helper()
	s.await("restarted", func() bool {
		pid := s.property("MainPID")
		return pid != "0" && pid != before && s.property("ActiveState") == "active"
	})
}

const (
	faulty = "name = \"plant-a\"\n[bus.x]\naddress = \"tcp://127.0.0.1:502\"\nspeed = 1\n"
	plain  = "name = \"plant-a\"\n"
)

// The real package on booted systems: what Debian users expect of a package, and
// what the unit promises.
func TestPackageOnBootedSystem(t *testing.T) {
	longRoot(t)
	first := packageOf(t, "1.0.0", "")
	second := packageOf(t, "1.0.1", "\n# The packaged file has changed.\n")
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			s := boot(t, suite)
			t.Logf("%s as process 1", strings.SplitN(s.run("systemctl --version"), "\n", 2)[0])
			for _, deb := range []string{first, second} {
				data, err := os.ReadFile(deb)
				if err != nil {
					t.Fatal(err)
				}
				s.write("/root/"+filepath.Base(deb), string(data))
			}
			s.installs("dpkg --install /root/" + filepath.Base(first))
			s.leadsToTheFirstValue()
			s.isSandboxed()
			s.reloads()
			s.restarts()
			s.stopsOnceWithWrongConfiguration()
			s.takesCredentials()
			s.upgrades(filepath.Base(second))
			s.goes(filepath.Base(first))
			s.takesTarball(filepath.Dir(first))
		})
	}
}

func (s *system) installs(how string) {
	s.t.Helper()
	s.expect(how, "no devices yet")
	s.expect("systemctl is-active gateway", "active")
	s.expect("systemctl is-enabled gateway", "enabled")
	s.expect("id gateway", "dialout")
	if got := s.property("StatusText"); !strings.HasPrefix(got, "no devices yet") {
		s.t.Errorf("the status line is %q", got)
	}
	s.expect("gateway status", "tcp://127.0.0.1:1883, 0 clients")
	s.expect("gateway version", "gateway 1.0.0")
	s.run("test -e /usr/share/bash-completion/completions/gateway -a -e /usr/share/man/man1/gateway.1.gz || test -e /usr/share/doc/gateway/copyright")
}

// leadsToTheFirstValue is what somebody types next: init finds a meter, writes it
// down where the sandboxed service can read it, and has that start again with the
// new name.
func (s *system) leadsToTheFirstValue() {
	s.t.Helper()
	s.write("/root/plant/gateway.toml", "name = \"plant\"\n[bus.x]\naddress = \"tcp://127.0.0.1:1502\"\n[device.m]\nprofile = \"eastron/sdm630\"\nbus = \"x\"\nunit_id = 1\n")
	s.run("systemd-run --quiet --unit plant gateway simulate --config /root/plant --state /root/plant")
	s.await("the plant is up", func() bool {
		_, code := s.try("gateway read m.voltage_l1 --config /root/plant --state /root/plant")
		return code == 0
	})
	before := s.property("MainPID")
	out := s.expect("gateway init --name plant-a --bus tcp://127.0.0.1:1502 --device main --yes", "The running gateway has taken it.")
	if !strings.Contains(out, "voltage_l1") || !strings.Contains(out, "mosquitto_sub -t 'plant-a/#' -v") || s.property("MainPID") == before {
		s.t.Errorf("init said:\n%s", out)
	}
	s.await("the meter is read", func() bool { out, _ := s.try("gateway status"); return strings.Contains(out, "online") })
	if got := s.property("StatusText"); !strings.HasPrefix(got, "1 bus, 1 device") {
		s.t.Errorf("the status line is %q", got)
	}
	s.run("systemctl stop plant && rm /etc/gateway/devices.d/*.toml")
}

// isSandboxed opens a serial port from within the sandbox, where this kernel
// has one, and asks systemd what it thinks of the unit.
func (s *system) isSandboxed() {
	s.t.Helper()
	s.run("systemd-analyze verify --man=no /usr/lib/systemd/system/gateway.service")
	s.run("systemd-analyze security --no-pager --threshold=15 gateway.service")
	s.run("mknod -m 660 /dev/ttyS0 c 4 64 && chgrp dialout /dev/ttyS0")
	s.write("/etc/gateway/gateway.toml", plain+"[bus.line]\naddress = \"/dev/ttyS0\"\nbaud = 9600\n[device.a]\nbus = \"line\"\nunit_id = 1\npoints.x = { holding = 0 }\n")
	s.run("systemctl restart gateway")
	s.await("the port is looked at", func() bool {
		log := s.journal()
		return strings.Contains(log, "no answer") || strings.Contains(log, "port unavailable")
	})
	if log := s.journal(); strings.Contains(log, "not permitted") || strings.Contains(log, "ermission denied") {
		s.t.Errorf("the sandbox keeps the service from its port:\n%s", log)
	}
	// There is no timesyncd here: that it cannot know the time is said, until the
	// drop-in of the documentation lets it ask the kernel.
	const blind = "nobody here can tell"
	if !strings.Contains(s.journal(), blind) {
		s.t.Errorf("nothing is said of the clock:\n%s", s.journal())
	}
	s.run("mkdir -p /etc/systemd/system/gateway.service.d && cp /usr/share/doc/gateway/examples/chrony.conf /etc/systemd/system/gateway.service.d/ && systemctl daemon-reload && journalctl --rotate --vacuum-time=1s 2>/dev/null && systemctl restart gateway")
	if log := s.journal(); strings.Contains(log, blind) || !strings.Contains(log, "msg=ready") {
		s.t.Errorf("with the drop-in for chrony:\n%s", log)
	}
	s.run("rm /etc/systemd/system/gateway.service.d/chrony.conf && systemctl daemon-reload")
}

func (s *system) reloads() {
	s.t.Helper()
	s.write("/etc/gateway/gateway.toml", plain)
	s.run("systemctl restart gateway")
	pid := s.property("MainPID")
	s.write("/etc/gateway/gateway.toml", plain+"[broker.user.panel]\nread = [\"#\"]\n")
	s.run("systemctl reload gateway")
	s.await("reloaded", func() bool { return strings.Contains(s.journal(), "msg=reloaded config=") })
	s.write("/etc/gateway/gateway.toml", faulty)
	out, code := s.try("systemctl reload gateway")
	if code == 0 || s.property("ActiveState") != "active" || s.property("MainPID") != pid || s.property("NRestarts") != "0" {
		s.t.Errorf("a wrong configuration: reload exits with %d (%s), then the service is %s with %s restarts", code, out, s.property("ActiveState"), s.property("NRestarts"))
	}
	if log := s.journal(); !strings.Contains(log, "gateway.toml:4:1: error:") {
		s.t.Errorf("the journal does not say which line is wrong:\n%s", log)
	}
	s.write("/etc/gateway/gateway.toml", plain)
	s.run("systemctl reload gateway")
}

func (s *system) restarts() {
	s.t.Helper()
	pid := s.property("MainPID")
	s.run("kill -KILL " + pid)
	s.another(pid)
	pid = s.property("MainPID")
	hung := time.Now()
	s.run("kill -STOP " + pid)
	s.another(pid)
	if log := s.run("journalctl --no-pager --unit gateway"); !strings.Contains(log, "Watchdog timeout") {
		s.t.Errorf("the hung process was not ended by the watchdog:\n%s", log)
	}
	s.t.Logf("a hung gateway is replaced after %v", time.Since(hung).Round(time.Second))
}

func (s *system) stopsOnceWithWrongConfiguration() {
	s.t.Helper()
	s.run("systemctl stop gateway && systemctl reset-failed gateway 2>/dev/null || true")
	s.write("/etc/gateway/gateway.toml", faulty)
	if _, code := s.try("systemctl start gateway"); code == 0 {
		s.t.Error("the service starts with a wrong configuration")
	}
	if got := s.property("ExecMainStatus"); got != "78" {
		s.t.Errorf("exit code %s, want 78", got)
	}
	for range 40 { // twice as long as it would take to start again
		if state := s.property("ActiveState"); state != "failed" {
			s.t.Fatalf("the service is %s after a configuration error", state)
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.write("/etc/gateway/gateway.toml", plain)
	s.run("systemctl start gateway")
}

func (s *system) takesCredentials() {
	s.t.Helper()
	s.write("/etc/gateway/gateway.toml", plain+"[bridge.far]\nurl = \"tls://127.0.0.1:1\"\nusername = \"u\"\npassword = \"${cred:far.pass}\"\nsend = { \"{name}/+\" = \"dt/+\" }\n")
	if _, code := s.try("systemctl restart gateway"); code == 0 || !strings.Contains(s.journal(), `the credential "far.pass" is neither in`) {
		s.t.Errorf("without its credential: %s", s.journal())
	}
	s.run("mkdir -p /etc/credstore.encrypted && printf hunter2hunter2 | systemd-creds encrypt --with-key=host --name=far.pass - /etc/credstore.encrypted/far.pass")
	s.write("/etc/systemd/system/gateway.service.d/credentials.conf", "[Service]\nLoadCredentialEncrypted=far.pass\n")
	s.run("systemctl daemon-reload && systemctl restart gateway")
	s.await("the status line tells of the bridge", func() bool {
		out, _ := s.try("gateway status")
		return strings.Contains(out, "127.0.0.1:1") && strings.Contains(out, "refused the connection")
	})
	if log := s.run("journalctl --no-pager"); strings.Contains(log, "hunter2") {
		s.t.Error("the journal shows the credential")
	}
	s.run("rm -r /etc/systemd/system/gateway.service.d && systemctl daemon-reload")
}

func (s *system) upgrades(deb string) {
	s.t.Helper()
	s.write("/etc/gateway/gateway.toml", plain+"# mine\n")
	s.run("systemctl restart gateway")
	pid := s.property("MainPID")
	s.expect("dpkg --force-confdef --force-confold --install /root/"+deb, "no errors in the configuration")
	s.expect("cat /etc/gateway/gateway.toml", "# mine")
	s.run("test -e /etc/gateway/gateway.toml.dpkg-dist")
	s.expect("gateway version", "gateway 1.0.1")
	if s.property("ActiveState") != "active" || s.property("MainPID") == pid {
		s.t.Errorf("after the upgrade the service is %s, its process %s (before: %s)", s.property("ActiveState"), s.property("MainPID"), pid)
	}
	pid = s.property("MainPID")
	s.write("/etc/gateway/gateway.toml", faulty)
	out := s.expect("dpkg --force-confdef --force-confold --install /root/"+deb, "gateway.toml:4:1: error:")
	if !strings.Contains(out, "the version from before goes on running") || s.property("ActiveState") != "active" || s.property("MainPID") != pid {
		s.t.Errorf("after an upgrade with a wrong configuration the service is %s:\n%s", s.property("ActiveState"), out)
	}
	s.write("/etc/gateway/gateway.toml", plain+"# mine\n")
	s.run("systemctl restart gateway")
}

// goes removes the package, takes it back, and purges it.
func (s *system) goes(deb string) {
	s.t.Helper()
	s.write("/etc/gateway/devices.d/meters.toml", "")
	s.run("dpkg --remove gateway")
	if out, _ := s.try("systemctl is-active gateway"); out != "inactive" {
		s.t.Errorf("after remove the service is %s", out)
	}
	if out, _ := s.try("systemctl is-enabled gateway"); out != "masked" {
		s.t.Errorf("after remove the service is %s", out)
	}
	s.expect("cat /etc/gateway/gateway.toml", "# mine")
	s.run("test -d /var/lib/gateway")
	s.run("dpkg --force-confdef --force-confold --install /root/" + deb)
	s.expect("systemctl is-active gateway", "active")
	s.expect("cat /etc/gateway/gateway.toml", "# mine")
	s.run("dpkg --purge gateway")
	for _, path := range []string{"/etc/gateway", "/var/lib/gateway", "/run/gateway", "/usr/bin/gateway", "/usr/lib/systemd/system/gateway.service", "/etc/systemd/system/gateway.service", "/etc/systemd/system/multi-user.target.wants/gateway.service", "/usr/share/doc/gateway"} {
		if _, err := os.Lstat(s.files + path); err == nil {
			s.t.Errorf("purge leaves %s", path)
		}
	}
	if left := s.run("find /var/lib/systemd/deb-systemd-helper-* -name '*gateway*'"); left != "" {
		s.t.Errorf("purge leaves %s", left)
	}
}

func (s *system) takesTarball(dist string) {
	s.t.Helper()
	tarball := filepath.Join(dist, "gateway_1.0.0_linux_amd64.tar.gz")
	data, err := os.ReadFile(tarball)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("/root/gateway.tar.gz", string(data))
	s.expect("cd /root && tar xzf gateway.tar.gz && cd gateway-1.0.0-amd64 && ./install.sh", "Next step")
	s.expect("systemctl is-active gateway", "active")
	s.expect("/usr/local/bin/gateway status", "tcp://127.0.0.1:1883")
	s.write("/etc/gateway/gateway.toml", plain+"# mine\n")
	s.run("systemctl reload gateway")
	s.run("cd /root/gateway-1.0.0-amd64 && ./install.sh")
	s.expect("cat /etc/gateway/gateway.toml", "# mine")
	s.expect("systemctl is-active gateway", "active")
	s.expect("cd /root/gateway-1.0.0-amd64 && ./install.sh remove", "Removed")
	if _, code := s.try("systemctl is-active gateway"); code == 0 {
		s.t.Error("runs after removal")
	}
	if conn, err := net.Dial("unix", s.files+"/run/gateway/control.sock"); err == nil {
		conn.Close()
		s.t.Error("something still answers at the control socket")
	}
}
