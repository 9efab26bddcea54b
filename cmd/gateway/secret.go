package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newSecret(opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Store passwords and keys that the configuration refers to",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretSet(opts), newSecretList(opts))
	return cmd
}

func newSecretSet(opts *options) *cobra.Command {
	var encrypt bool
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Store a password or key for ${cred:NAME}",
		Long: `set stores what "${cred:NAME}" in the configuration stands for, in the folder
credentials of the configuration, for root and the gateway's group alone. It asks on
a terminal, without showing what is typed, and takes all of its input elsewhere: a
password, a key or a certificate. A reload has the gateway take it.

With --encrypt it goes to /etc/credstore.encrypted instead, encrypted for this
machine by systemd-creds: a copied card or backup does not hold it then. systemd
hands it to the service only, so that commands that log in themselves, such as
bridge test, have to run as the service does, and a new one needs a restart.`,
		Example: `  gateway secret set far.password
  gateway secret set aws.key < plant-a.private.key
  gateway secret set aws.key --encrypt < plant-a.private.key`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(func() []string { names, _ := secretNames(opts.config); return names }),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			return setSecret(ctx, opts.config, args[0], encrypt)
		},
	}
	cmd.Flags().BoolVar(&encrypt, "encrypt", false, "have systemd-creds encrypt it for this machine; only the service can use it then")
	return cmd
}

func newSecretList(opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the names of what is stored, and nothing else of it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names, err := secretNames(opts.config)
			if err != nil {
				return explainSecret(err)
			}
			for _, name := range names {
				fmt.Println(name)
			}
			return nil
		},
	}
}

// credentialsDir is the folder beside a configuration, which may be one file.
func credentialsDir(path string) string {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	return filepath.Join(path, "credentials")
}

// encryptedDir is where systemd looks for the encrypted ones.
const encryptedDir = "/etc/credstore.encrypted"

// secretNames lists those of the configuration's folder.
func secretNames(path string) (names []string, err error) {
	entries, err := os.ReadDir(credentialsDir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

var secretName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$`)

func setSecret(ctx context.Context, path, name string, encrypt bool) error {
	if !secretName.MatchString(name) {
		return usageError("%q is no name of a secret: it is a file's name of letters, digits, and . _ -", name)
	}
	value, err := askSecret(ctx, name)
	if err != nil {
		return err
	}
	if encrypt {
		return encryptSecret(ctx, encryptedDir, name, value)
	}
	dir := credentialsDir(path)
	if err := makeCredentials(dir); err != nil {
		return explainSecret(err)
	}
	file := filepath.Join(dir, name)
	if err := replaceFile(file, value); err != nil {
		return explainSecret(err)
	}
	fmt.Fprintf(os.Stderr, "%s is in %s. The configuration refers to it by \"${cred:%[1]s}\".\n", name, file)
	fmt.Fprintln(os.Stderr, "A gateway that runs takes it with: sudo systemctl reload gateway (or kill -HUP its process).")
	return nil
}

// makeCredentials makes the folder, for root and the service alone.
func makeCredentials(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if gid, ok := serviceGroup(); ok {
		return os.Chown(dir, 0, gid)
	}
	return nil
}

func explainSecret(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; run it as root: sudo gateway secret …", err)
	}
	return err
}

// maxSecret is what of a secret's file the configuration reads, bytes.
const maxSecret = 1 << 20

// askSecret asks on a terminal; elsewhere all that comes is the secret, for a
// key has many lines.
func askSecret(ctx context.Context, name string) ([]byte, error) {
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil {
		return askPassword(ctx, "Secret "+name)
	}
	value, err := io.ReadAll(io.LimitReader(os.Stdin, maxSecret+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the secret: %w", err)
	case len(value) > maxSecret:
		return nil, fmt.Errorf("a secret of more than %d bytes is not taken; nothing was changed", maxSecret)
	case len(bytes.TrimSpace(value)) == 0:
		return nil, errors.New("an empty secret is none; nothing was changed")
	case bytes.IndexByte(value, 0) >= 0:
		return nil, errors.New("this holds a NUL, so it is no password, and no key in PEM; nothing was changed")
	}
	return value, nil
}

// encryptSecret has systemd-creds write it to a folder.
func encryptSecret(ctx context.Context, dir, name string, value []byte) error {
	tool, err := exec.LookPath("systemd-creds")
	if err != nil {
		return errors.New("there is no systemd-creds here (it comes with systemd 250): leave --encrypt out")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explainSecret(err)
	}
	file := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, tool, "encrypt", "--name="+name, "-", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(value), os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("systemd-creds could not encrypt it (%w); as root it can: sudo gateway secret set %s --encrypt", err, name)
	}
	fmt.Fprintf(os.Stderr, `%s is in %s. systemd hands it to the service by these lines,
which belong into /etc/systemd/system/gateway.service.d/credentials.conf:

[Service]
LoadCredentialEncrypted=%[1]s

Then: sudo systemctl daemon-reload && sudo systemctl restart gateway. The
configuration refers to it by "${cred:%[1]s}".
`, name, file)
	return nil
}
