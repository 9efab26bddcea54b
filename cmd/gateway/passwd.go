package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	rights "edgegateway/broker/access"
	"edgegateway/internal/config"
)

func newPasswd(opts *options) *cobra.Command {
	var p passwd
	var remove, list bool
	cmd := &cobra.Command{
		Use:   "passwd [USER]",
		Short: "Set the password of a user of the broker, or take the user out",
		Long: `passwd writes the file of users and passwords that [broker] passwords names in
gateway.toml, or else passwd beside it. It asks for the password on a terminal, and
takes the first line of its input elsewhere. mosquitto reads the file, too.`,
		Example: `  gateway passwd panel             set a password
  gateway passwd -D panel          take a user out
  gateway passwd --list
  systemctl reload gateway         have the running gateway take it`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			configured, given := config.PasswordsFile(opts.config, config.Options{})
			p.configured = given && (p.file == "" || sameFile(p.file, configured))
			if p.file == "" {
				p.file = configured
			}
			if list != (len(args) == 0) || list && remove {
				return usageError("name one user, or give --list alone")
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			switch {
			case list:
				return p.list(os.Stdout)
			case remove:
				return p.remove(args[0])
			}
			return p.set(ctx, args[0])
		},
	}
	cmd.Flags().StringVar(&p.file, "file", "", "file of passwords, if not the configuration's")
	cmd.Flags().BoolVarP(&remove, "delete", "D", false, "take the user out")
	cmd.Flags().BoolVar(&list, "list", false, "list the users")
	return cmd
}

func sameFile(a, b string) bool {
	a, err1 := filepath.Abs(a)
	b, err2 := filepath.Abs(b)
	return err1 == nil && err2 == nil && a == b
}

// A passwd works on a file of passwords.
type passwd struct {
	file       string
	configured bool // the configuration names it
}

func (p *passwd) list(w io.Writer) error {
	data, err := os.ReadFile(p.file)
	if err != nil {
		return p.explain(err)
	}
	passwords, faults := rights.ParsePasswords(p.file, data)
	if faults != nil {
		for _, f := range faults {
			fmt.Fprintln(os.Stderr, f)
		}
		return &exitError{code: exitFailed}
	}
	for _, name := range passwords.Users() {
		fmt.Fprintln(w, name)
	}
	return nil
}

func (p *passwd) remove(name string) error {
	data, err := os.ReadFile(p.file)
	if err != nil {
		return p.explain(err)
	}
	data, found := rights.DeleteUser(data, name)
	if !found {
		return fmt.Errorf("%s holds no user %q; gateway passwd --list shows who there is", p.file, name)
	}
	if err := replaceFile(p.file, data); err != nil {
		return p.explain(err)
	}
	fmt.Fprintf(os.Stderr, "%s is out of %s.\n", name, p.file)
	p.whatNext()
	return nil
}

func (p *passwd) set(ctx context.Context, name string) error {
	if wrong := rights.WrongUser(name); wrong != "" {
		return usageError("the user name %q %s", name, wrong)
	}
	password, err := askPassword(ctx, "Password for "+name)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(p.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.explain(err)
	}
	if data, err = rights.SetPassword(data, name, password); err != nil {
		return err
	}
	if err := replaceFile(p.file, data); err != nil {
		return p.explain(err)
	}
	fmt.Fprintf(os.Stderr, "%s has a password, in %s.\n", name, p.file)
	p.whatNext()
	return nil
}

// explain says what to do about a file that cannot be read or written.
func (p *passwd) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; gateway passwd USER makes it, --config and --file name another place", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run it as root: sudo gateway passwd …", err)
	}
	return err
}

func (p *passwd) whatNext() {
	if !p.configured {
		path, err := filepath.Abs(p.file)
		if err != nil {
			path = p.file
		}
		fmt.Fprintf(os.Stderr, "The broker uses the file once gateway.toml names it:\n\n[broker]\npasswords = %s\n\n", strconv.Quote(path))
	}
	fmt.Fprintln(os.Stderr, "A gateway that runs takes it with: sudo systemctl reload gateway (or kill -HUP its process).")
}

// replaceFile replaces a file at once: with what it held or with data, whatever
// happens. Who may read it stays as it is, but that never is everybody.
func replaceFile(file string, data []byte) error {
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target
	}
	mode, owner, err := ownership(file)
	if err != nil {
		return err
	}
	return putFile(file, data, mode, owner)
}

// putFile makes or replaces a file at once. A nil owner is whoever runs this.
func putFile(file string, data []byte, mode fs.FileMode, owner *syscall.Stat_t) error {
	next, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(next.Name()) // unless it was renamed
	_, err = next.Write(data)
	if owner != nil && err == nil {
		err = next.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = next.Chmod(mode)
	}
	if err == nil {
		err = next.Sync()
	}
	if err = errors.Join(err, next.Close()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), file); err != nil {
		return err
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ownership returns the mode of the next file, and its owner if that is not
// whoever runs this. What root makes is for the group of the service, which
// could not read it otherwise.
func ownership(file string) (fs.FileMode, *syscall.Stat_t, error) {
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		if gid, ok := serviceGroup(); ok {
			return 0o640, &syscall.Stat_t{Gid: uint32(gid)}, nil
		}
		return 0o600, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	owner, _ := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm()&0o040 != 0 {
		return 0o640, owner, nil
	}
	return 0o600, owner, nil
}

// serviceGroup returns the group that root gives files of the service to.
func serviceGroup() (gid int, ok bool) {
	group, err := user.LookupGroup("gateway")
	if err != nil || os.Geteuid() != 0 {
		return 0, false
	}
	gid, err = strconv.Atoi(group.Gid)
	return gid, err == nil
}

const mostPassword = 65535 // bytes: MQTT has no longer ones

// askPassword asks twice on a terminal; elsewhere it reads one line.
func askPassword(ctx context.Context, prompt string) ([]byte, error) {
	in := bufio.NewReader(io.LimitReader(os.Stdin, 2*(mostPassword+2)))
	was, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	if err != nil {
		return checkPassword(readLine(ctx, in))
	}
	quiet := *was
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, &quiet); err != nil {
		return nil, fmt.Errorf("stop the terminal from showing the password: %w", err)
	}
	defer unix.IoctlSetTermios(int(os.Stdin.Fd()), unix.TCSETS, was)
	ask := func(prompt string) ([]byte, error) {
		fmt.Fprint(os.Stderr, prompt)
		defer fmt.Fprintln(os.Stderr)
		return checkPassword(readLine(ctx, in))
	}
	first, err := ask(prompt + ": ")
	if err != nil {
		return nil, err
	}
	second, err := ask("The same again: ")
	if err == nil && string(first) != string(second) {
		err = errors.New("these were not the same; nothing was changed")
	}
	return first, err
}

// readLine reads a line, which ends with its end or the input's.
func readLine(ctx context.Context, in *bufio.Reader) (string, error) {
	line, err := nextLine(ctx, in)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return line, err
}

// nextLine reads a line. With the end of the input comes io.EOF.
func nextLine(ctx context.Context, in *bufio.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() { // ends with the process if nobody answers
		line, err := in.ReadString('\n')
		read <- result{line, err}
	}()
	select {
	case r := <-read:
		return strings.TrimRight(r.line, "\r\n"), r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func checkPassword(line string, err error) ([]byte, error) {
	switch {
	case err != nil:
		return nil, err
	case line == "":
		return nil, errors.New("an empty password is none; nothing was changed")
	case len(line) > mostPassword:
		return nil, fmt.Errorf("a password of more than %d bytes does not fit into MQTT; nothing was changed", mostPassword)
	case strings.Contains(line, "\x00"):
		return nil, errors.New("a password with a NUL is cut short by mosquitto; nothing was changed")
	}
	return []byte(line), nil
}
