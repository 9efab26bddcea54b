package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// listConfig has one device with a list; settings are those of points_file.
func listConfig(t *testing.T, settings, list string) (*Config, *Report) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gateway.toml"), `name = "plant-a"
[device.press]
bus = "tcp://192.168.10.5"
unit_id = 1
points_file = { file = "list.csv", `+settings+` }
[device.press.points]
dropped = false
kept.every = "2s"
`)
	if err := os.WriteFile(filepath.Join(dir, "list.csv"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(dir, testOptions(nil))
}

// The same list in all the forms that programs write it.
func TestListForms(t *testing.T) {
	list := "Name;Holding;Type;Scale;Unit;Write;Min;Max\r\nkept;100;REAL;0,1;°C;rw;-5,5;80\r\n\r\n# Grüße;;;;;;;\r\n" +
		"\"mit \"\"Namen\"\"; und so\";0x66;INT;\"1e-3\";m³/h;nein;;\r\ndropped;103;;;;;;\r\ntext;104;STRING[20];;;;;\r\n"
	comma := strings.NewReplacer(";", ",", "0,1", `"0,1"`, "-5,5", "-5.5", `""; und`, `""; und`).Replace(list)
	comma = strings.Replace(comma, `"mit ""Namen"", und so"`, `"mit ""Namen""; und so"`, 1)
	latin := make([]byte, 0, len(list))
	for _, r := range list {
		latin = append(latin, byte(r))
	}
	little := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(list)) {
		little = append(little, byte(u), byte(u>>8))
	}
	for form, text := range map[string]string{
		"UTF-8": list, "with a mark": "\xef\xbb\xbf" + list, "Windows-1252": string(latin), "UTF-16": string(little),
		"line feeds": strings.ReplaceAll(list, "\r\n", "\n"), "tabs": strings.Replace(strings.ReplaceAll(list, ";", "\t"), `""`+"\t und", `""; und`, 1), "commas": comma,
	} {
		cfg, report := listConfig(t, `columns = {}`, text)
		if cfg == nil || len(report.Issues) > 0 {
			report.WriteTo(t.Output())
			t.Errorf("%s: %s", form, report.Summary())
			continue
		}
		var got []string
		for _, p := range cfg.Devices[0].Points {
			limits := ""
			if p.Write != nil {
				limits = fmt.Sprint(p.Write.Min, p.Write.Max)
			}
			got = append(got, fmt.Sprintf("%s %v %v %s %s %v%s", p.Name, p.Source, p.Type, p.Scale, p.Unit, p.Every, limits))
		}
		want := []string{"kept holding 100-101 f32 0.1 °C 2s-5.5 80", `mit "Namen"; und so holding 102 i16 0.001 m³/h 5s`, "text holding 104-113 string 0  5s"}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n\t%s\nwant\n\t%s", form, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
		if !slices.Contains(cfg.Files, "list.csv") {
			t.Errorf("%s is not among %v", "list.csv", cfg.Files)
		}
	}
}

// A change of the list changes the hash; the marks in Windows-1252 that are not
// in Latin-1 are read.
func TestListOfManyPoints(t *testing.T) {
	var b strings.Builder
	b.WriteString("Symbol,Addr,Area,Data type,Enum,Invalid,range_min,range_max,mask\n")
	for i := range 400 {
		fmt.Fprintf(&b, "DB10.v%d \x93x\x94,%d,%s,INT,0=off|1=auto,0x8000|-1,,,\n", i, i+1, []string{"HR", "IR"}[i%2])
	}
	b.WriteString("kept,2000,HR,INT\ndropped,2001,HR,INT\n")
	b.WriteString("level,1000,4x,WORD,,,0,\"12,5\",0x0FF0\n")
	settings := `base = 1, columns = { name = "symbol", address = "addr", table = "area", type = "data type" }, types = { int = "u16" }`
	cfg, report := listConfig(t, settings, b.String())
	if cfg == nil || len(cfg.Devices[0].Points) != 402 {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	p := cfg.Devices[0].Points[399]
	if r := p.Source.(modbus.Register); p.Name != "DB10.v399 “x”" || r.Address != 399 || r.Table != modbus.Input || p.Type != mapping.U16 || p.Enum[1] != "auto" || len(p.Invalid) != 2 {
		t.Errorf("%+v", p)
	}
	if p = cfg.Devices[0].Points[401]; p.Mask != 0x0ff0 || p.Range.String() != "[0, 12.5]" {
		t.Errorf("%+v", p)
	}
	if other, _ := listConfig(t, settings, strings.Replace(b.String(), "0=off", "0=aus", 1)); other.Hash() == cfg.Hash() {
		t.Error("the hash is the same")
	}
}

// What a list can say of a point besides where it is.
func TestListColumns(t *testing.T) {
	cfg, report := listConfig(t, `base = 1`, "name;holding;type;kind;max_rate;wrap;scale_factor;chars;encoding;zone;compute;range_max\n"+
		"kept;1;UDINT;counter;2,5;1000000;;;;;;\ndropped;3;;;;;;;;;;\namps;4;INT;;;;11;;;;;40\nlabel;20;STRING(4);;;;;low;latin1;;;\n"+
		"since;30;unix32;;;;;;;Europe/Berlin;;\ntotal;;;;;;;;;;amps * 230;\n")
	if cfg == nil || len(report.Issues) > 0 {
		report.WriteTo(t.Output())
		t.Fatal(report.Summary())
	}
	dev := cfg.Devices[0]
	kept, amps, label, since, total := dev.Point("kept"), dev.Point("amps"), dev.Point("label"), dev.Point("since"), dev.Point("total")
	if kept.Kind != mapping.Counter || kept.MaxRate != 2.5 || kept.Wrap.String() != "1000000" {
		t.Errorf("%+v", kept)
	}
	if amps.ScaleFrom == nil || amps.ScaleFrom.Source.(modbus.Register).Address != 10 || amps.Range.String() != "[-inf, 40]" {
		t.Errorf("%+v", amps)
	}
	if label.Layout != mapping.LowByte || label.Encoding != mapping.Latin1 || label.Source.String() != "holding 20-23" || since.Zone.String() != "Europe/Berlin" {
		t.Errorf("%+v, %+v", label, since)
	}
	if total == nil || total.Program.String() != "amps * 230" {
		t.Errorf("%+v", total)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte("name;holding;type\na;1;INT\n\"b;2;\"\"\r\n;;\n"), ";")
	f.Add([]byte("\xff\xfen\x00a\x00m\x00e\x00"), "")
	f.Add([]byte("name,address,enum,invalid,write,min,range_min\n\x93a\x94,0x1,0=|=,|,rw,\"1,5\",x"), ",")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, separator string) {
		if err := os.WriteFile(filepath.Join(dir, "list.csv"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("name = \"a\"\n[device.d]\nbus = \"tcp://192.168.10.5\"\nunit_id = 1\npoints_file = { file = \"list.csv\", table = \"holding\", separator = %q }\n", separator)
		if err := os.WriteFile(filepath.Join(dir, "gateway.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, report := Load(dir, testOptions(nil))
		for i := range report.Issues {
			_ = report.Issues[i].String()
		}
	})
}
