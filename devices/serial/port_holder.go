package serial

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holderOf names the program that has locked the file of fd.
func holderOf(fd int) string {
	const unknown = "another program, or another bus of this one,"
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(fd, &st) != nil {
		return unknown
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK ADVISORY WRITE 1234 00:06:123 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != file {
			continue
		}
		if who := program(f[4]); who != "" {
			return who
		}
	}
	return unknown
}

// openBy names the first other program that has path open, as far as this one
// may see that; "" if it sees none.
func openBy(path string) string {
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	opens, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, open := range opens {
		pid := strings.Split(open, "/")[2]
		if to, err := os.Readlink(open); err == nil && to == file && pid != strconv.Itoa(os.Getpid()) {
			return program(pid)
		}
	}
	return ""
}

// program says which one a process is, "" if it is gone.
func program(pid string) string {
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return ""
	}
	who := fmt.Sprintf("%s (process %s", strings.TrimSpace(string(name)), pid)
	if info, err := os.Stat("/proc/" + pid); err == nil {
		id := strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid))
		if u, err := user.LookupId(id); err == nil {
			id = u.Username
		}
		who += " of user " + id
	}
	return who + ")"
}
