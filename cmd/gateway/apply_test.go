package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tree lists a folder with the contents of its files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == beforeDir {
			return fs.SkipDir
		}
		if err == nil && !e.IsDir() {
			text, _ := os.ReadFile(path)
			rel, _ := filepath.Rel(dir, path)
			fmt.Fprintf(&all, "%s: %s\n", rel, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// A bundle replaces what it has at its top and leaves the site its own; going
// back puts everything as it was. What cannot be used changes nothing.
func TestApplyReplacesAndGoesBack(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, at("etc/gateway.toml"), "name = \"plant\"\n")
	writeFile(t, at("etc/site.toml"), "name = \"site-7\"\n")
	writeFile(t, at("etc/devices.d/old.toml"), "[device.old]\nbus = \"tcp://127.0.0.1:1\"\nunit_id = 1\npoints.x = { input = 1 }\n")
	writeFile(t, at("etc/credentials/key"), "secret")
	before := tree(t, at("etc"))
	writeFile(t, at("bundle/gateway.toml"), "name = \"fleet\"\n")
	writeFile(t, at("bundle/devices.d/new.toml"), "[device.new]\nprofile = \"own/meter\"\nbus = \"tcp://127.0.0.1:1\"\nunit_id = 1\n")
	writeFile(t, at("bundle/profiles/own/meter.toml"), "points.x = { input = 1 }\n")
	writeFile(t, at("bundle/.git/config"), "not part of it")
	bundles := []string{at("bundle"), archive(t, at("flat.tar.gz"), at("bundle"), ""), archive(t, at("inner.tar"), at("bundle"), "fleet-1/")}
	for _, bundle := range bundles {
		a := &applier{config: at("etc"), socket: at("none"), out: t.Output()}
		if err := a.apply(t.Context(), bundle, 0); err != nil {
			t.Fatalf("%s: %v", bundle, err)
		}
		after := tree(t, at("etc"))
		for _, want := range []string{"devices.d/new.toml: ", "gateway.toml: name = \"fleet\"", "profiles/own/meter.toml: ", "site.toml: name = \"site-7\"", "credentials/key: secret"} {
			if !strings.Contains(after, want) {
				t.Errorf("%s: no %q in\n%s", bundle, want, after)
			}
		}
		if strings.Contains(after, "old.toml") || strings.Contains(after, ".git") || strings.Contains(after, stagedDir) {
			t.Errorf("%s: what is not of the bundle:\n%s", bundle, after)
		}
		if err := a.back(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now := tree(t, at("etc")); now != before {
			t.Errorf("%s: after going back\n%s\nwant\n%s", bundle, now, before)
		}
		if err := a.back(t.Context()); err == nil {
			t.Error("it goes back twice")
		}
	}

	evil := at("evil.tar")
	f, err := os.Create(evil)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	w.WriteHeader(&tar.Header{Name: "../../outside", Typeflag: tar.TypeReg, Mode: 0o644})
	w.Close()
	f.Close()
	link := at("link.tar")
	f, _ = os.Create(link)
	w = tar.NewWriter(f)
	w.WriteHeader(&tar.Header{Name: "gateway.toml", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})
	w.Close()
	f.Close()
	writeFile(t, at("broken/gateway.toml"), "name = \"fleet\"\n[bus.x]\nspeed = 1\n")
	writeFile(t, at("taken/gateway.toml"), "name = \"fleet\"\n")
	writeFile(t, at("taken/site.toml"), "name = \"x\"\n")
	writeFile(t, at("empty/readme"), "")
	writeFile(t, at("notes.tar.gz"), "not an archive")
	for bundle, want := range map[string]string{
		evil: "../../outside: ", link: "neither a file nor a folder", at("broken"): "the bundle does not fit: ", at("taken"): "site.toml, which belongs to each site",
		at("empty"): "no gateway.toml at its top", at("notes.tar.gz"): "no gzip file", at("absent"): "no such file",
	} {
		a := &applier{config: at("etc"), socket: at("none"), out: t.Output()}
		if err := a.apply(t.Context(), bundle, 0); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v, want %q", bundle, err, want)
		}
		if now := tree(t, at("etc")); now != before {
			t.Errorf("%s changed the configuration:\n%s", bundle, now)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "outside")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an archive wrote outside of its folder")
	}
}

// archive packs a folder, each name with something before it.
func archive(t *testing.T, name, dir, before string) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := io.WriteCloser(f)
	if strings.HasSuffix(name, "gz") {
		out = gzip.NewWriter(f)
		defer out.Close()
	}
	w := tar.NewWriter(out)
	defer w.Close()
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, ".git") {
			return err
		}
		text, _ := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		w.WriteHeader(&tar.Header{Name: before + rel, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(text))})
		_, err = w.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// With a running gateway: a good bundle stays, one whose bridge does not come
// up is taken back by itself, also when the terminal is lost meanwhile.
func TestApplyGoesBackByItself(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	c.start()
	const device = "[device.a]\nbus = \"tcp://127.0.0.1:1\"\nunit_id = 1\npoints.x = { input = 1 }\n"
	s := newSite(t, c.bridge("send = { \"{name}/#\" = \"dt/{name}/#\" }\n"), map[string]string{"a": device})
	good, err := os.ReadFile(filepath.Join(s.config, "gateway.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.run()
	eventually(t, "the bridge is up", func() bool { return strings.Contains(s.out.String(), "uplink connected") })
	first := statusOf(t, s).Config

	bundle := t.TempDir()
	writeFile(t, filepath.Join(bundle, "gateway.toml"), string(good))
	writeFile(t, filepath.Join(bundle, "devices.d", "b.toml"), strings.Replace(device, "[device.a]", "[device.b]", 1))
	out, code := s.command("apply", bundle, "--confirm", "60s")
	if code != 0 || !strings.Contains(out, "All are up: the bundle stays.") {
		t.Fatalf("exit code %d: %s", code, out)
	}
	second := statusOf(t, s)
	if second.Config == first || len(second.Devices) != 1 || second.Devices[0].ID != "b" {
		t.Errorf("after the first bundle: %+v", second.Devices)
	}

	writeFile(t, filepath.Join(bundle, "gateway.toml"), strings.Replace(string(good), "username  = \"gateway\"", "username  = \"nobody\"", 1))
	before := tree(t, s.config)
	cmd := exec.CommandContext(context.Background(), binary, s.args("apply", bundle, "--confirm", "4s")...)
	output, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(output, make([]byte, 10)) // it has begun
	output.Close()                        // nobody reads what it says any more
	cmd.Process.Signal(syscall.SIGHUP)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if now := tree(t, s.config); now != before {
		t.Errorf("the configuration is\n%s\nwas\n%s", now, before)
	}
	eventually(t, "the bridge is up again", func() bool {
		st := statusOf(t, s)
		return st.Config == second.Config && st.Bridges[0].State == "up"
	})
}
