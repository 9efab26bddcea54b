package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"edgegateway/broker"
)

// keepers are the programs that keep the clock, as the kernel names them.
var keepers = map[string]string{"systemd-timesyn": "systemd-timesyncd", "chronyd": "chrony", "ntpd": "ntpd", "ntpd-rs": "ntpd-rs", "openntpd": "openntpd"}

// time looks at the clock, and at who keeps it.
func (d *doctor) time() {
	const area = "clock"
	trusted := d.cfg != nil && d.cfg.TrustClock
	quality, blind := d.clock(trusted)
	var names, others []string
	for comm, name := range keepers {
		if len(d.running(comm)) > 0 {
			names = append(names, name)
			if comm != "systemd-timesyn" {
				others = append(others, name)
			}
		}
	}
	keeper := strings.Join(names, " and ")
	switch {
	case trusted:
		d.say(area, note, "", "", "clock = \"trusted\" in the configuration: it is believed whatever the kernel says")
	case blind:
		d.say(area, warning, "", "\"Another keeper of the time\" in docs/install.md", "nobody here can tell whether it is synchronised")
	case quality != broker.Exact && keeper == "":
		d.say(area, warning, "", "sudo timedatectl set-ntp true (sudo apt install systemd-timesyncd, if there is none)", "it is not synchronised, and no program keeps it: values carry \"clock\":\"%v\"", quality)
	case quality != broker.Exact:
		d.say(area, warning, "", "timedatectl timesync-status (chronyc sources) names the server and whether it answers; on a plant without internet, write one that does into /etc/systemd/timesyncd.conf: NTP=192.168.1.1", "it is not synchronised, though %s runs: values carry \"clock\":\"%v\"", keeper, quality)
	case keeper == "":
		d.say(area, fine, "", "", "synchronised; by whom is not to be seen")
	default:
		d.say(area, fine, "", "", "synchronised by %s", keeper)
	}
	if s := d.status; s != nil && s.Clock != broker.Exact.String() && quality == broker.Exact && !blind {
		remedy := "it follows within a minute"
		if len(others) > 0 {
			remedy = "\"Another keeper of the time\" in docs/install.md: its sandbox cannot ask " + strings.Join(others, " and ")
		}
		d.say(area, warning, "", remedy, "it is synchronised, but the running gateway does not see that (%s)", s.Clock)
	}
	if !d.exists("sys/class/rtc/rtc0") {
		d.say(area, note, "", "an RTC module, or a time server on site, for plants that start without internet", "the machine has no clock that runs without power: until a time server answers after a start nobody knows the time, and what is read meanwhile is dated afterwards")
	}
}

// memory looks at what there is, and whether bounds hold.
func (d *doctor) memory() {
	const area = "memory"
	d.controller(area)
	figures := map[string]int64{}
	for line := range strings.Lines(d.read("proc/meminfo")) {
		if f := strings.Fields(line); len(f) >= 2 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			figures[strings.TrimSuffix(f[0], ":")] = n << 10
		}
	}
	total, free := figures["MemTotal"], figures["MemAvailable"]
	switch {
	case total == 0:
		d.say(area, note, "", "", "how much there is, is not known")
	case free < 64<<20:
		d.say(area, failure, "", "top (M sorts by memory) shows who has it", "%s of %s are left: the kernel will soon end programs", bytesText(free), bytesText(total))
	case free < 128<<20:
		d.say(area, warning, "", "top (M sorts by memory) shows who has it", "%s of %s are left", bytesText(free), bytesText(total))
	default:
		d.say(area, fine, "", "", "%s of %s are left", bytesText(free), bytesText(total))
	}
	if d.status != nil {
		d.ownMemory(area)
	}
}

// controller finds kernels that bound no memory.
func (d *doctor) controller(area string) {
	missing := false
	if d.exists("sys/fs/cgroup/cgroup.controllers") {
		missing = !strings.Contains(" "+d.read("sys/fs/cgroup/cgroup.controllers")+" ", " memory ")
	} else {
		for line := range strings.Lines(d.read("proc/cgroups")) { // memory 0 84 0
			f := strings.Fields(line)
			missing = missing || len(f) == 4 && f[0] == "memory" && f[3] == "0"
		}
	}
	if missing {
		d.say(area, warning, "", "add cgroup_enable=memory cgroup_memory=1 to the one line of /boot/firmware/cmdline.txt (/boot/cmdline.txt before Debian 12); then sudo reboot",
			"the kernel's memory controller is off, as on many a Pi: MemoryMax of the service bounds nothing, and GOMEMLIMIT has to do alone")
	}
}

// ownMemory compares what the running gateway has with what it may have.
func (d *doctor) ownMemory(area string) {
	var rss int64
	for line := range strings.Lines(d.read(fmt.Sprintf("proc/%d/status", d.status.PID))) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			rss, _ = strconv.ParseInt(f[1], 10, 64)
			rss <<= 10
		}
	}
	may := cgroupMemoryOf(d.root, strconv.Itoa(d.status.PID))
	switch {
	case rss == 0:
	case may == math.MaxInt64:
		d.say(area, fine, "", "", "the gateway has %s, and no bound", bytesText(rss))
	case rss > may/10*9:
		d.say(area, warning, "", "more of it: sudo systemctl edit gateway (GOMEMLIMIT, MemoryHigh and MemoryMax, as in the unit)", "the gateway has %s of the %s that it may have", bytesText(rss), bytesText(may))
	default:
		d.say(area, fine, "", "", "the gateway has %s of the %s that it may have", bytesText(rss), bytesText(may))
	}
}
