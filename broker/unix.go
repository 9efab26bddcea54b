package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix" // SO_PEERCRED: who is at the other end
)

// defaultMode lets the service's user and group connect.
const defaultMode = 0o660

// listenUnix makes a Unix socket. It is made in a folder that nobody else can
// enter and moved to its place when it has its mode. There it replaces one that
// nobody listens at any more, and nothing else.
func listenUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	if err := abandoned(path); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".socket-")
	if err != nil {
		return nil, fmt.Errorf("%w; the gateway makes its socket in a folder it may write to, such as /run/gateway", err)
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	l := &unixListener{Listener: ln, path: path}
	if l.own, err = place(made, path, cmp.Or(mode, defaultMode)); err != nil {
		ln.Close()
		return nil, err
	}
	return l, nil
}

// place gives a socket its mode and its path.
func place(made, path string, mode fs.FileMode) (fs.FileInfo, error) {
	if err := os.Chmod(made, mode); err != nil {
		return nil, err
	}
	if err := os.Rename(made, path); err != nil {
		return nil, err
	}
	return os.Lstat(path)
}

// abandoned returns why a socket cannot be made at path.
func abandoned(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and no socket: move it away or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another program listens at %s", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("find out whether somebody listens at %s: %w", path, err)
	}
	return nil
}

// A unixListener removes its socket when it closes, if it is still its own.
type unixListener struct {
	net.Listener
	path string
	own  fs.FileInfo
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.own) {
		os.Remove(l.path)
	}
	return l.Listener.Close()
}

func (l *unixListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &unixConn{conn, peerOf(conn.(*net.UnixConn))}, nil
}

// A unixConn says which process it comes from.
type unixConn struct {
	net.Conn
	peer net.Addr
}

func (c *unixConn) RemoteAddr() net.Addr { return c.peer }

// peerOf names the process at the other end, as the kernel saw it connect.
func peerOf(conn *net.UnixConn) net.Addr {
	name := "local"
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			if who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				name = fmt.Sprintf("process %d of user %d", who.Pid, who.Uid)
			}
		})
	}
	return &net.UnixAddr{Name: name, Net: "unix"}
}
