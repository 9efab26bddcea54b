package serial

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// PortNames lists names for the serial ports of this machine, best ones first:
// those that stay the same when an adapter is plugged in elsewhere. A port that
// has no such name is listed by its own. Nothing is opened.
func PortNames() []string { return portNames(os.DirFS("/")) }

// PortsUnder is PortNames of a machine whose files are below root.
func PortsUnder(root string) []string { return portNames(os.DirFS(root)) }

func portNames(root fs.FS) (names []string) {
	named := make(map[string]bool) // ports by their own names
	for _, dir := range []string{"dev/serial/by-id", "dev/serial/by-path"} {
		entries, _ := fs.ReadDir(root, dir)
		for _, e := range entries {
			target := e.Name()
			if to, err := fs.ReadLink(root, path.Join(dir, e.Name())); err == nil {
				target = path.Base(to)
			}
			if !named[target] {
				named[target] = true
				names = append(names, "/"+path.Join(dir, e.Name()))
			}
		}
	}
	ttys, _ := fs.ReadDir(root, "sys/class/tty")
	for _, e := range ttys {
		if named[e.Name()] || !isPort(root, e.Name()) {
			continue
		}
		names = append(names, "/dev/"+e.Name())
	}
	return names
}

// isPort reports whether a tty has a device behind it. Of the many ttyS that a
// PC has by name those of type 0 do not exist.
func isPort(root fs.FS, name string) bool {
	dir := "sys/class/tty/" + name
	if _, err := fs.Stat(root, dir+"/device"); err != nil {
		return false
	}
	kind, err := fs.ReadFile(root, dir+"/type")
	return err != nil || strings.TrimSpace(string(kind)) != "0"
}

// wherePorts says which ports there are, for who named one that is not there.
func wherePorts(names []string) string {
	const most = 8
	switch {
	case len(names) == 0:
		return "this machine has no serial port at present"
	case len(names) > most:
		return "there are " + strings.Join(names[:most], ", ") + " and " + strconv.Itoa(len(names)-most) + " more"
	}
	return "there is " + strings.Join(names, ", ")
}

// LatencyTimer returns how many milliseconds a USB adapter holds bytes back, in
// the hope of more, and false where there is no such thing. Each exchange on the
// line takes up to that much longer.
func LatencyTimer(port string) (ms int, ok bool) {
	tty, err := filepath.EvalSymlinks(port)
	if err != nil {
		return 0, false
	}
	return latencyTimer(os.DirFS("/"), filepath.Base(tty))
}

func latencyTimer(root fs.FS, tty string) (ms int, ok bool) {
	text, err := fs.ReadFile(root, "sys/class/tty/"+tty+"/device/latency_timer")
	if err != nil {
		return 0, false
	}
	ms, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return ms, err == nil
}
