package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

var update = flag.Bool("update", false, "write what the faulty configurations report into testdata")

// builtIn are the profiles of the tests.
var builtIn = fstest.MapFS{
	"profiles/acme/meter.toml": {Data: []byte(`maker = "Acme"
type = "f32"
every = "1s"
max_read = 40
[groups.slow]
every = "1m"
[points]
voltage = { input = 0, unit = "V" }
power   = { input = 12, unit = "W", deadband = 5 }
energy  = { input = 72, unit = "kWh", group = "slow", kind = "counter" }
`)},
	"profiles/acme/broken.toml": {Data: []byte("type = \"f32\"\nevry = \"1s\"\n[points]\nvoltage = { inptu = 0 }\n")},
}

// testOptions have no surroundings but env.
func testOptions(env map[string]string) Options {
	return Options{
		Profiles: builtIn,
		Env:      func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Hostname: func() (string, error) { return "raspberrypi", nil },
	}
}

// unpack writes the files of a test, `-- name --` before each, to a folder.
// The last, called want, is returned.
func unpack(t *testing.T, archive string) (dir, want string) {
	t.Helper()
	dir = t.TempDir()
	for part := range strings.SplitSeq("\n"+archive, "\n-- ") {
		name, body, ok := strings.Cut(part, " --\n")
		switch {
		case !ok:
		case name == "want":
			want = body
		default:
			write(t, filepath.Join(dir, name), strings.TrimSuffix(body, "\n")+"\n")
		}
	}
	return dir, want
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

// TestFaultsAreExplained compares the whole text of what is reported about
// the configurations in testdata/faulty.
func TestFaultsAreExplained(t *testing.T) {
	files, err := filepath.Glob("testdata/faulty/*.txt")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d faulty configurations, want at least 25 (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			archive, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir, want := unpack(t, string(archive))
			cfg, report := Load(dir, testOptions(map[string]string{"EMPTY": "", "SECRET": "hunter2"}))
			var b strings.Builder
			report.WriteTo(&b)
			b.WriteString(report.Summary() + "\n")
			got := strings.ReplaceAll(b.String(), dir, "DIR")
			if (cfg == nil) != (report.Errors() > 0) {
				t.Errorf("config is nil: %v, with %s", cfg == nil, report.Summary())
			}
			if *update {
				head, _, _ := strings.Cut(string(archive), "-- want --\n")
				write(t, file, head+"-- want --\n"+got)
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
