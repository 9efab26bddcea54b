// Command packaging builds what is given out: a Debian package and a tarball with
// an install script for each kind of Pi and for PCs, what they are made of (an
// SBOM in CycloneDX), and SHA256SUMS over all.
//
// The same commit gives the same bytes, whoever builds it, wherever and when. So
// everything carries the time of the commit ($SOURCE_DATE_EPOCH says otherwise),
// and nothing the name of a folder or a machine. The version is that of the tag,
// or $VERSION.
//
// It is a module of its own, for building takes forty modules that the product
// does without.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A target is a kind of machine.
type target struct {
	name   string // in the names of tarballs and SBOMs
	debian string
	goarch string
	goarm  string
}

// ARMv6 serves the 32-bit systems of all Pis; Debian's armhf on a newer one runs
// it as well.
var targets = []target{
	{"armv6", "armhf", "arm", "6"},
	{"arm64", "arm64", "arm64", ""},
	{"amd64", "amd64", "amd64", ""},
}

// A build is what all packages have in common.
type build struct {
	repo    string // the product's folder
	out     string
	work    string // for what is on the way
	version string // 1.2.3, or 1.2.3+5.gabcdef0 five commits later
	time    time.Time
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: packaging/build.sh [FOLDER]")
		os.Exit(2)
	}
	if err := run("..", os.Args[1], targets); err != nil {
		fmt.Fprintln(os.Stderr, "packaging:", err)
		os.Exit(1)
	}
}

func run(repo, out string, targets []target) error {
	work, err := os.MkdirTemp("", "gateway-packaging-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &build{out: out, work: work}
	if b.repo, err = filepath.Abs(repo); err != nil {
		return err
	}
	if err := b.identify(); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	made, err := b.all(targets)
	if err != nil {
		return err
	}
	return b.sums(made)
}

// identify finds version and time.
func (b *build) identify() (err error) {
	stamp := os.Getenv("SOURCE_DATE_EPOCH")
	if stamp == "" {
		if stamp, err = b.git("log", "-1", "--format=%ct"); err != nil {
			return fmt.Errorf("when was this committed: %w; without git, set SOURCE_DATE_EPOCH", err)
		}
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", stamp)
	}
	b.time = time.Unix(seconds, 0).UTC()
	if b.version = strings.TrimPrefix(os.Getenv("VERSION"), "v"); b.version == "" {
		described, err := b.git("describe", "--tags", "--match=v[0-9]*", "--always", "--long", "--dirty")
		if err != nil {
			return fmt.Errorf("which version is this: %w; without git, set VERSION", err)
		}
		b.version = versionOf(described, b.time)
	}
	if !regexp.MustCompile(`^[0-9][A-Za-z0-9.+~]*$`).MatchString(b.version) {
		return fmt.Errorf("version %q: it has to begin with a digit and hold only letters, digits, and . + ~", b.version)
	}
	return nil
}

// versionOf turns what git describes into a version that Debian orders as it is
// meant: v1.2.3-0-gabc is 1.2.3, five commits later it is 1.2.3+5.gabc, and
// before the first tag 0~20261126.gabc.
func versionOf(described string, at time.Time) string {
	described, dirty := strings.CutSuffix(described, "-dirty")
	version := "0~" + at.Format("20060102150405") + ".g" + described
	if tag := regexp.MustCompile(`^v(.+)-(\d+)-(g[0-9a-f]+)$`).FindStringSubmatch(described); tag != nil {
		version = strings.ReplaceAll(tag[1], "-", "~") // 1.2.3-rc1 comes before 1.2.3
		if tag[2] != "0" {
			version += "+" + tag[2] + "." + tag[3]
		}
	}
	if dirty {
		version += "+dirty"
	}
	return version
}

func (b *build) git(args ...string) (string, error) {
	return output(exec.Command("git", append([]string{"-C", b.repo}, args...)...))
}

// output runs a command; what it says is part of its error.
func output(cmd *exec.Cmd) (string, error) {
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, talk.Bytes())
	}
	return strings.TrimSpace(out.String()), nil
}

// all builds everything and returns the names of the files in out.
func (b *build) all(targets []target) (made []string, err error) {
	here := target{name: "here", goarch: runtime.GOARCH} // says of itself what it can do
	if i := slices.IndexFunc(targets, func(t target) bool { return t.goarch == runtime.GOARCH && t.goarm == "" }); i >= 0 {
		here = targets[i]
	} else if err := b.compile(b.binary(here), here); err != nil {
		return nil, err
	}
	for _, t := range targets {
		if err := b.compile(b.binary(t), t); err != nil {
			return nil, err
		}
	}
	common, err := b.common(b.binary(here))
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		binary := b.binary(t)
		code, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		for _, pack := range []func(target, []byte, *contents) (string, error){b.deb, b.tarball} {
			name, err := pack(t, code, common)
			if err != nil {
				return nil, err
			}
			made = append(made, name)
			fmt.Println(filepath.Join(b.out, name))
		}
		name, err := b.sbom(t, binary)
		if err != nil {
			return nil, err
		}
		made = append(made, name)
		fmt.Println(filepath.Join(b.out, name))
	}
	return made, nil
}

// binary is where the command for t is.
func (b *build) binary(t target) string { return filepath.Join(b.work, "gateway-"+t.name) }

func (b *build) compile(to string, t target) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid= -X main.release="+b.version, "-o", to, "./cmd/gateway")
	cmd.Dir = b.repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+t.goarch, "GOARM="+t.goarm, "GOFLAGS=-mod=readonly", "GOAMD64=v1")
	_, err := output(cmd)
	return err
}

// sbom writes the modules that a binary is made of.
func (b *build) sbom(t target, binary string) (name string, err error) {
	text, err := output(exec.Command("go", "tool", "cyclonedx-gomod", "bin", "-json", "-noserial", "-notimestamp", "-version", "v"+b.version, binary))
	if err != nil {
		return "", err
	}
	var bom map[string]any
	if err := json.Unmarshal([]byte(text), &bom); err != nil {
		return "", err
	}
	metadata, ok := bom["metadata"].(map[string]any)
	if !ok {
		return "", fmt.Errorf("the SBOM of %s has no metadata", t.name)
	}
	metadata["timestamp"] = b.time.Format(time.RFC3339)
	tools, _ := metadata["tools"].([]any)
	for _, tool := range tools {
		delete(tool.(map[string]any), "hashes") // of the tool's binary, which holds the folder it was built in
	}
	if text, err := json.MarshalIndent(bom, "", "  "); err != nil {
		return "", err
	} else {
		name = fmt.Sprintf("gateway_%s_linux_%s.cdx.json", b.version, t.name)
		return name, os.WriteFile(filepath.Join(b.out, name), append(text, '\n'), 0o644)
	}
}

// sums writes SHA256SUMS, for sha256sum -c.
func (b *build) sums(made []string) error {
	var text bytes.Buffer
	slices.Sort(made)
	for _, name := range made {
		data, err := os.ReadFile(filepath.Join(b.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(data), name)
	}
	return os.WriteFile(filepath.Join(b.out, "SHA256SUMS"), text.Bytes(), 0o644)
}
