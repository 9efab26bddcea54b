package serial

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix" // the numbers by which the kernel tells devices and locks apart
)

// A Holder is a process that has a port open.
type Holder struct {
	Name string // of its program
	PID  int
	User string // "" where it is not known
}

// String is what to look for: "mbpoll (process 1234, user pi)".
func (h Holder) String() string {
	who := ""
	if h.User != "" {
		who = ", user " + h.User
	}
	return fmt.Sprintf("%s (process %d%s)", h.Name, h.PID, who)
}

// Holders returns the other processes that have the port at path open, as far
// as this one may see: root sees all, anyone those of his own and the one that
// has locked it. Who made a pseudo-terminal does not count: he is its far end.
func Holders(path string) (list []Holder) {
	port, ok := portOf(path)
	if !ok {
		return nil
	}
	if h, ok := lockerOf(&port); ok {
		list = append(list, h)
	}
	folders, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, folder := range folders {
		h, ok := holder(filepath.Base(filepath.Dir(folder)))
		if ok && !slices.Contains(list, h) && opens(folder, &port) {
			list = append(list, h)
		}
	}
	list = slices.DeleteFunc(list, func(h Holder) bool { return h.PID == os.Getpid() })
	slices.SortFunc(list, func(a, b Holder) int { return a.PID - b.PID })
	return list
}

// portOf finds the device at a path.
func portOf(path string) (st unix.Stat_t, ok bool) {
	return st, unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR
}

// opens reports whether one of the descriptors in a folder of /proc is of the
// port.
func opens(folder string, port *unix.Stat_t) (found bool) {
	fds, _ := os.ReadDir(folder) // gone, or not for our eyes
	for _, fd := range fds {
		link := filepath.Join(folder, fd.Name())
		to, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(to, "/dev/") {
			continue
		}
		if to == "/dev/ptmx" && unix.Major(port.Rdev) >= ptsMajor && unix.Major(port.Rdev) < ptsMajor+8 {
			return false
		}
		var st unix.Stat_t
		found = found || unix.Stat(link, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == port.Rdev
	}
	return found
}

// ptsMajor is the first of eight major numbers of pseudo-terminals.
const ptsMajor = 136

// lockerOf returns the process that has locked a file.
func lockerOf(st *unix.Stat_t) (Holder, bool) {
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return Holder{}, false
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK ADVISORY WRITE 1234 00:06:123 0 EOF
		if f := strings.Fields(line); len(f) >= 6 && f[5] == file {
			return holder(f[4])
		}
	}
	return Holder{}, false
}

// holder finds out who a process is; anyone may.
func holder(pid string) (Holder, bool) {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	n, err2 := strconv.Atoi(pid)
	if err != nil || err2 != nil {
		return Holder{}, false
	}
	h := Holder{Name: strings.TrimSpace(string(name)), PID: n}
	var st unix.Stat_t
	if unix.Stat("/proc/"+pid, &st) == nil {
		h.User = strconv.Itoa(int(st.Uid))
		if u, err := user.LookupId(h.User); err == nil {
			h.User = u.Username
		}
	}
	return h, true
}

// held says who has the port at path, and how to go on.
func held(path string) string {
	var list []Holder
	if port, ok := portOf(path); ok {
		if h, ok := lockerOf(&port); ok && h.PID == os.Getpid() {
			return fmt.Sprintf("another bus of this very program has it, %v; let the devices share one bus", h)
		} else if ok {
			list = []Holder{h}
		}
	}
	if len(list) == 0 {
		list = Holders(path)
	}
	if len(list) == 0 {
		return "another program holds it (`sudo fuser -v " + path + "` names it); stop that program, or take the port out of one of the two"
	}
	var names []string
	gateway := false
	for _, h := range list {
		names = append(names, h.String())
		gateway = gateway || h.Name == "gateway"
	}
	text := "it is held by " + strings.Join(names, " and ")
	if gateway {
		return text + ": a running gateway reads and writes for others, so name the folder that it runs with (--state), or stop it"
	}
	return text + ": stop that; while the gateway has the port, `gateway read` and `gateway write` go through it"
}
