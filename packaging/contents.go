package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A file is one file of a package.
type file struct {
	path string // in the package
	mode fs.FileMode
	data []byte
}

// contents are the files that packages of all targets share.
type contents struct {
	docs       []file // below the folder of the documentation
	man        []byte
	completion []byte // for bash; nil: the command writes none
	copyright  []byte
	unit       []byte
	sysusers   []byte
	config     []byte
	readme     []byte // of devices.d
}

// common reads them from the repository, and what only the command knows from
// the command.
func (b *build) common(command string) (*contents, error) {
	c := &contents{}
	for path, to := range map[string]*[]byte{
		"systemd/gateway.service": &c.unit, "systemd/gateway.sysusers": &c.sysusers,
		"packaging/gateway.toml": &c.config, "packaging/devices.d.README": &c.readme,
	} {
		var err error
		if *to, err = os.ReadFile(filepath.Join(b.repo, path)); err != nil {
			return nil, err
		}
	}
	var err error
	if c.docs, err = b.documentation(); err != nil {
		return nil, err
	}
	if c.man, err = b.manual(command); err != nil {
		return nil, err
	}
	if text, err := output(exec.Command(command, "completion", "bash")); err == nil {
		c.completion = []byte(text + "\n")
	}
	c.copyright, err = b.licences()
	return c, err
}

// documentation is README.md, docs/ and, below examples/, configurations and
// what one may copy beside the unit.
func (b *build) documentation() (docs []file, err error) {
	add := func(from, to string) error {
		data, err := os.ReadFile(filepath.Join(b.repo, from))
		docs = append(docs, file{to, 0o644, data})
		return err
	}
	pages, err := filepath.Glob(filepath.Join(b.repo, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		if err := add("docs/"+filepath.Base(page), "docs/"+filepath.Base(page)); err != nil {
			return nil, err
		}
	}
	for from, to := range map[string]string{
		"README.md":                "README.md",
		"configs/reference.toml":   "examples/reference.toml",
		"systemd/gateway.rules":    "examples/gateway.rules",
		"systemd/chrony.conf":      "examples/chrony.conf",
		"systemd/credentials.conf": "examples/credentials.conf",
		"packaging/Containerfile":  "examples/Containerfile",
	} {
		if err := add(from, to); err != nil {
			return nil, err
		}
	}
	configs := filepath.Join(b.repo, "configs")
	for folder, to := range map[string]string{"examples": ".", "observe": "observe"} {
		root := filepath.Join(configs, folder)
		err = errors.Join(err, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			below, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			return add(filepath.Join("configs", folder, below), filepath.Join("examples", to, below))
		}))
	}
	slices.SortFunc(docs, func(x, y file) int { return strings.Compare(x.path, y.path) })
	return docs, err
}

// licences are the terms of the product and of all that is linked into it, which
// have to come with it.
func (b *build) licences() ([]byte, error) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/gateway")
	cmd.Dir = b.repo
	cmd.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	text, err := output(cmd)
	if err != nil {
		return nil, err
	}
	modules := slices.Compact(slices.Sorted(slices.Values(strings.Split(text, "\n"))))
	var out bytes.Buffer
	if own, err := os.ReadFile(filepath.Join(b.repo, "LICENSE")); err == nil {
		fmt.Fprintf(&out, "The gateway\n\n%s\n", own)
	} else {
		fmt.Fprintf(&out, "The gateway is Copyright of those who wrote it.\n\n")
	}
	fmt.Fprintf(&out, "Linked into it are the libraries below and those of Go, each under its terms.\n")
	goroot, err := output(exec.Command("go", "env", "GOROOT"))
	if err != nil {
		return nil, err
	}
	n := 0
	for _, m := range append(modules, "Go - "+goroot) {
		fields := strings.SplitN(m, " ", 3)
		if len(fields) != 3 {
			continue
		}
		var texts []string
		for _, name := range []string{"LICEN[CS]E*", "COPYING*", "NOTICE*", "PATENTS"} {
			found, err := filepath.Glob(filepath.Join(fields[2], name))
			if err != nil {
				return nil, err
			}
			texts = append(texts, found...)
		}
		if len(texts) == 0 {
			return nil, fmt.Errorf("%s has no licence in %s", fields[0], fields[2])
		}
		n++
		for _, path := range texts {
			licence, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&out, "\n%s\n%s (%s)\n\n%s", strings.Repeat("-", 72), strings.TrimSuffix(fields[0]+" "+fields[1], " -"), filepath.Base(path), licence)
		}
	}
	if n < 5 {
		return nil, fmt.Errorf("only %d libraries found in: %s", n, text)
	}
	return out.Bytes(), nil
}

// manual is the manual page, from what the command says of itself.
func (b *build) manual(command string) ([]byte, error) {
	help, err := output(exec.Command(command, "--help"))
	if err != nil {
		return nil, err
	}
	about, rest, ok := strings.Cut(help, "\n\nUsage:")
	_, rest, ok2 := strings.Cut(rest, "Available Commands:\n")
	list, _, ok3 := strings.Cut(rest, "\n\n")
	if !ok || !ok2 || !ok3 {
		return nil, fmt.Errorf("the help of the command is not as expected:\n%s", help)
	}
	var page bytes.Buffer
	fmt.Fprintf(&page, ".TH GATEWAY 1 %s \"gateway %s\"\n", b.time.Format("2006-01-02"), b.version)
	fmt.Fprintf(&page, ".SH NAME\ngateway \\- bridge serial and Modbus devices to MQTT\n.SH SYNOPSIS\n.B gateway\n.I COMMAND\n.RI [ FLAGS ]\n.SH DESCRIPTION\n%s\n", roff(about))
	fmt.Fprintf(&page, ".SH COMMANDS\n")
	for _, m := range regexp.MustCompile(`(?m)^  (\S+) +(.+)$`).FindAllStringSubmatch(list, -1) {
		fmt.Fprintf(&page, ".TP\n.B %s\n%s\n", roff(m[1]), roff(m[2]))
	}
	fmt.Fprintf(&page, ".PP\n.B gateway help\n.I COMMAND\ntells more of each, with its flags.\n")
	fmt.Fprint(&page, `.SH EXIT STATUS
0 ok, 1 failed, 2 wrong usage, 78 an error in the configuration.
.SH FILES
.TP
.I /etc/gateway/gateway.toml
the gateway: name, buses, broker, bridges
.TP
.I /etc/gateway/devices.d/*.toml
the devices
.TP
.I /var/lib/gateway
what is buffered, and learned facts
.TP
.I /usr/share/doc/gateway/examples/reference.toml
every key, explained
.SH SEE ALSO
/usr/share/doc/gateway/docs/reference-commands.md: each command with its flags;
reference-configuration.md, install.md and the other pages are beside it
`)
	return page.Bytes(), nil
}

// roff writes plain text for a manual page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	text = regexp.MustCompile(`(?m)^['.]`).ReplaceAllStringFunc(text, func(s string) string { return `\&` + s })
	return strings.ReplaceAll(text, "\n\n", "\n.PP\n")
}

// zipped packs without a name or a time in it.
func zipped(data []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	w.Write(data)
	w.Close()
	return out.Bytes()
}
