package serial

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// nmea frames a body as the standard does.
func nmea(body string) string {
	var sum byte
	for i := range len(body) {
		sum ^= body[i]
	}
	return fmt.Sprintf("$%s*%02X", body, sum)
}

func TestParseNMEA(t *testing.T) {
	for _, c := range []struct {
		line, address string
		fields        []string
	}{
		// Sums that others published, so that verifyXOR is not its own judge.
		{"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47", "GPGGA",
			strings.Split("123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,", ",")},
		{"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A", "GPRMC",
			strings.Split("123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W", ",")},
		{"$WIMWV,214.8,R,0.1,K,A*28", "WIMWV", []string{"214.8", "R", "0.1", "K", "A"}},
		{nmea("PGRME,15.0,M,45.0,M,25.0,M"), "PGRME", strings.Split("15.0,M,45.0,M,25.0,M", ",")},
		{nmea("HEROT"), "HEROT", nil},
		{"\x00\xff,3" + nmea("WIMWV,1,R,2,N,A"), "WIMWV", []string{"1", "R", "2", "N", "A"}},
		{"$WIMWV,214.8,R,12" + nmea("WIMWV,215.0,R,12.6,N,A"), "WIMWV", []string{"215.0", "R", "12.6", "N", "A"}}, // one cut off before
		{strings.ToLower(nmea("HEHDT,1")[8:]) + nmea("HEHDT,274.07,T"), "HEHDT", []string{"274.07", "T"}},
	} {
		s, err := parseNMEA([]byte(c.line), nil)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if got := string(bytes.Join(s.fields, []byte{'|'})); s.address != c.address || got != strings.Join(c.fields, "|") || len(s.fields) != len(c.fields) {
			t.Errorf("%q: %s %q", c.line, s.address, s.fields)
		}
	}
}

func TestParseNMEARefusesWhatIsNotProven(t *testing.T) {
	good := nmea("WIMWV,214.8,R,12.6,N,A")
	for _, line := range []string{
		"", "$", "*", "$*00", "WIMWV,1*00",
		"$WIMWV,214.8,R,12.6,N,A",    // no checksum
		good[:len(good)-1],           // half of one
		good + "0",                   // more than one
		good[:len(good)-2] + "G1",    // no hexadecimal
		"$WIMWV,214.8,R,13.6,N,A*25", // one digit off
		nmea("WIMWV,1\x00,R,2,N,A"),  // a NUL in the place of a character with bad parity
		nmea("WIMWV,1\xb2,R,2,N,A"),  // not ASCII
		nmea("WIMWV,1*00,R"),         // two asterisks
		nmea("wimwv,1"), nmea("W,1"), "$" + good[1:8] + "\n" + good[8:],
	} {
		if s, err := parseNMEA([]byte(line), nil); err == nil {
			t.Errorf("%q was taken as %v", line, s)
		}
	}
}

// A change of any single byte never yields another reading.
func TestParseNMEANoticesAnyChangedByte(t *testing.T) {
	good := nmea("WIMWV,214.8,R,12.6,N,A")
	for i := range good {
		for b := range 256 {
			line := []byte(good)
			line[i] = byte(b)
			s, err := parseNMEA(line, nil)
			if err == nil && string(line) != good && string(bytes.Join(s.fields, nil)) != "214.8R12.6NA" {
				t.Fatalf("%q was taken as %q", line, s.fields)
			}
		}
	}
}

func TestSentenceNames(t *testing.T) {
	for _, c := range []struct {
		address, name string
		want          bool
	}{
		{"WIMWV", "MWV", true}, {"WIMWV", "WIMWV", true}, {"IIMWV", "MWV", true}, {"IIMWV", "WIMWV", false},
		{"WIMWD", "MWV", false}, {"PGRME", "RME", false}, {"PGRME", "PGRME", true},
	} {
		if got := (sentence{address: c.address}).is(c.name); got != c.want {
			t.Errorf("%s is %s: %v", c.address, c.name, got)
		}
	}
}

func TestSentenceMarksFieldsInvalid(t *testing.T) {
	for _, c := range []struct {
		body    string
		invalid []int
	}{
		{"WIMWV,214.8,R,12.6,N,A", nil},
		{"WIMWV,214.8,R,12.6,N,V", []int{1, 2, 3, 4}},
		{"GPRMC,123519,V,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W", []int{3, 4, 5, 6, 7, 8, 10, 11}},
		{"GPGGA,123519,4807.038,N,01131.000,E,0,00,99.9,545.4,M,46.9,M,,", []int{2, 3, 4, 5, 8, 9, 11}},
		{"GPVTG,,T,,M,,N,,K,N", []int{1, 2, 3, 4, 5, 6, 7, 8}},
		{"WIMWV,214.8,R", nil}, // too short to say
		{"PMWV,214.8,R,12.6,N,V", nil},
	} {
		s, err := parseNMEA([]byte(nmea(c.body)), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := 0; i < 20; i++ {
			if s.invalid(i) {
				got = append(got, i)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.invalid) {
			t.Errorf("%s: invalid %v, want %v", c.body, got, c.invalid)
		}
	}
}

// What parses is, framed again, what the line ended with.
func FuzzParseNMEA(f *testing.F) {
	for _, body := range []string{"WIMWV,214.8,R,12.6,N,A", "GPGGA,123519,,,,,0,,,,M,,M,,", "PGRME,15.0,M", "HEROT"} {
		f.Add([]byte(nmea(body)))
		f.Add([]byte(nmea(body) + "\r"))
		f.Add([]byte("$GPG" + nmea(body)))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		s, err := parseNMEA(line, nil)
		if err != nil {
			return
		}
		body := s.address
		for _, field := range s.fields {
			body += "," + string(field)
		}
		again := nmea(body)
		if !strings.EqualFold(string(line[len(line)-len(again)+1:]), again[1:]) {
			t.Errorf("%q became %q", line, again)
		}
		for i := range 20 {
			s.invalid(i)
		}
	})
}
