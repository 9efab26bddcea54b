package simulator

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
	"edgegateway/mapping"
)

func TestAppendSentence(t *testing.T) {
	for _, test := range []struct {
		tag    string
		fields string
		want   string
	}{
		{"WIMWV", "214.8,R,0.1,K,A", "$WIMWV,214.8,R,0.1,K,A*28\r\n"},
		{"GPHDT", "274.07,T", "$GPHDT,274.07,T*03\r\n"},
		{"GPVTG", "054.7,T,034.4,M,005.5,N,010.2,K", "$GPVTG,054.7,T,034.4,M,005.5,N,010.2,K*48\r\n"},
	} {
		if got := string(appendSentence(nil, test.tag, strings.Split(test.fields, ","))); got != test.want {
			t.Errorf("%s: %q, want %q", test.tag, got, test.want)
		}
	}
}

func TestSplitTag(t *testing.T) {
	for sentence, want := range map[string]string{
		"MWV": "WIMWV MWV", "WIMWV": "WIMWV MWV", "XYZ": "IIXYZ XYZ", "PMAKER": "PMAKER KER", "AB": "AB AB",
	} {
		tag, form := splitTag(sentence)
		if tag+" "+form != want {
			t.Errorf("%s: %s %s, want %s", sentence, tag, form, want)
		}
	}
}

func TestFieldNumber(t *testing.T) {
	for _, test := range []struct {
		x    float64
		q    quantity
		want string
	}{{4.06, angle, "004.1"}, {214.8, angle, "214.8"}, {12, speed, "12.0"}, {-0.5, temperature, "-0.5"}} {
		if got := fieldNumber(test.x, test.q); got != test.want {
			t.Errorf("%g: %s, want %s", test.x, got, test.want)
		}
	}
}

// fieldsDevice makes a device of points at fields: "MWV 3", "3" or "MWV key".
func fieldsDevice(id string, points map[string]mapping.Point) *mapping.Device {
	var all []*mapping.Point
	for where, p := range points {
		sentence, place, ok := strings.Cut(where, " ")
		if !ok {
			sentence, place = "", where
		}
		f := serial.Field{Sentence: sentence}
		if n, err := strconv.Atoi(place); err == nil {
			f.Index = n
		} else {
			f.Key = place
		}
		p.Point = &devices.Point{Name: where, Source: f}
		p.FromText = true
		all = append(all, &p)
	}
	return newTestDevice(&devices.Device{ID: id, Name: id, Bus: "mast"}, all)
}

// linesAt returns what the devices of the first bus say at a time.
func linesAt(s *Simulator, at time.Time) (lines [][]byte) {
	for _, t := range s.buses[0].talkers.due(at) {
		if line, _ := t.say(); line != nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// say returns the first lines that a bus of one device sends.
func say(t *testing.T, dev *mapping.Device, checksum string) []string {
	t.Helper()
	c := newClock()
	s := newPlant(t, c, Config{Buses: []Bus{{Name: "mast", Kind: Lines, Framing: serial.Lines{Checksum: checksum}, Devices: []*mapping.Device{dev}}}})
	var all []string
	for _, line := range linesAt(s, c.at) {
		all = append(all, string(line))
	}
	return all
}

func TestSentences(t *testing.T) {
	f64 := mapping.Point{Type: mapping.F64}
	kn := mapping.Point{Type: mapping.F64, Unit: "kn"}
	ms := mapping.Point{Type: mapping.F64, Unit: "m/s"}
	for _, test := range []struct {
		what     string
		checksum string
		points   map[string]mapping.Point
		want     string
	}{
		{"what is not a point is filled in", "nmea", map[string]mapping.Point{"MWV 3": kn}, `^\$WIMWV,\d{3}\.\d,R,\d+\.\d,N,A\*[0-9A-F]{2}\r\n$`},
		{"the letter of the unit", "nmea", map[string]mapping.Point{"WIMWV 3": ms}, `^\$WIMWV,\d{3}\.\d,R,\d+\.\d,M,A\*`},
		{"an unknown sentence", "nmea", map[string]mapping.Point{"XYZ 3": f64}, `^\$IIXYZ,,,\d+\.\d\*`},
		{"any sentence", "nmea", map[string]mapping.Point{"1": f64}, `^\$PSIM,\d+\.\d\*`},
		{"a line of fields", "", map[string]mapping.Point{"2": f64}, `^,\d+\.\d\r\n$`},
		{"a line with a name", "", map[string]mapping.Point{"W 1": kn}, `^W,\d+\.\d\r\n$`},
		{"keys", "", map[string]mapping.Point{"W speed": kn}, `^W,speed=\d+\.\d\r\n$`},
		{"an integer", "", map[string]mapping.Point{"1": {Type: mapping.U16}}, `^\d+\r\n$`},
		{"a bool", "", map[string]mapping.Point{"1": {Type: mapping.Bool}}, `^[01]\r\n$`},
		{"a text", "", map[string]mapping.Point{"1": {Type: mapping.Text}}, `^mast_1\r\n$`},
		{"names", "", map[string]mapping.Point{"1": {Type: mapping.Text, EnumText: map[string]string{"B": "b", "C": "c"}}}, `^B\r\n$`},
	} {
		lines := say(t, fieldsDevice("mast*1", test.points), test.checksum)
		if len(lines) != 1 || !regexp.MustCompile(test.want).MatchString(lines[0]) {
			t.Errorf("%s: %q, want %s", test.what, lines, test.want)
		}
	}
}

// TestOneWindInAllUnits: fields that tell of one thing agree.
func TestOneWindInAllUnits(t *testing.T) {
	for _, points := range []map[string]mapping.Point{
		{"MWD 5": {Type: mapping.F64, Unit: "kn"}},
		{"MWD 7": {Type: mapping.F64, Unit: "m/s"}},
		{"MWD 5": {Type: mapping.F64, Unit: "kn"}, "MWD 7": {Type: mapping.F64, Unit: "m/s"}},
	} {
		lines := say(t, fieldsDevice("mast", points), "nmea")
		var dir, kn, ms float64
		if _, err := fmt.Sscanf(lines[0], "$WIMWD,%f,T,,M,%f,N,%f,M*", &dir, &kn, &ms); err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		if math.Abs(kn-ms*1.943844) > 0.2 {
			t.Errorf("%q: %g kn are not %g m/s", lines, kn, ms)
		}
	}
}

// TestTalkersKeepTheirPace: each sentence comes as often as its most wanted
// point says.
func TestTalkersKeepTheirPace(t *testing.T) {
	dev := fieldsDevice("mast", map[string]mapping.Point{"MWV 3": {Type: mapping.F64}, "MTW 1": {Type: mapping.F64}})
	for _, p := range dev.Points {
		if p.Name == "MWV 3" {
			p.Every = 200 * time.Millisecond
		}
	}
	c := newClock()
	s := newPlant(t, c, Config{Buses: []Bus{{Name: "mast", Kind: Lines, Framing: serial.Lines{Checksum: "nmea"}, Devices: []*mapping.Device{dev}}}})
	count := map[string]int{}
	for range 1000 {
		for _, line := range linesAt(s, c.at) {
			count[string(line[3:6])]++
		}
		c.advance(10 * time.Millisecond)
	}
	if count["MWV"] != 50 || count["MTW"] != 10 {
		t.Errorf("in ten seconds %v", count)
	}
	if got := s.Counters()[0]; got.Requests != 60 || got.Devices[0] != "mast" {
		t.Errorf("counted %+v", got)
	}
	if err := s.SetFault("mast", 1, Fault{Silent: true}); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Minute)
	if lines := linesAt(s, c.at); len(lines) != 0 {
		t.Errorf("a silent sensor says %q", lines)
	}
}

func TestMarksInSentences(t *testing.T) {
	c := newClock()
	s := newPlant(t, c, Config{Check: true, Buses: []Bus{{Name: "mast", Kind: Lines, Framing: serial.Lines{Checksum: "nmea"}, Devices: []*mapping.Device{mast()}}}})
	seen := map[string]bool{}
	for range 20 {
		linesAt(s, c.at)
		c.advance(time.Second)
		for _, name := range []string{"wind_angle", "wind_speed"} {
			raw, _ := s.Held("mast", name)
			if seen[string(raw)] {
				t.Fatalf("%s: %s was there before", name, raw)
			}
			seen[string(raw)] = true
		}
	}
}
