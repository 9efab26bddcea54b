package rehearsal

import (
	"fmt"
	"math"
	"strings"

	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// Doubts returns what a person should look at once more in a profile: what no
// device of this kind would need, or what such a map hardly can mean.
func Doubts(p *config.Profile) (list []string) {
	doubt := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if p.Maker == "" || p.Model == "" {
		doubt("it does not say whose device it is for: write maker and model")
	}
	if p.Checked == "" {
		doubt(`it does not say what it rests on: write checked = "one source", "two sources" or "hardware"`)
	}
	for _, point := range p.Device.Points {
		least, known := leastOf(point)
		most := highest(point)
		switch energy := strings.HasSuffix(point.Unit, "Wh") || strings.HasSuffix(point.Unit, "varh"); {
		case known && most < least:
			doubt("%s cannot be more than %s %s with this type and scale: is one of them wrong?", point.Name, short(most), point.Unit)
		case energy && point.Kind != mapping.Counter:
			doubt(`%s is an energy but no counter: write kind = "counter", unless it is that of a day`, point.Name)
		case point.Unit == "" && strings.HasPrefix(point.Name, "power"):
			doubt("%s has no unit", point.Name)
		}
	}
	return list
}

// leasts are values, by unit, that nearly every device must be able to tell.
var leasts = map[string]float64{
	"V": 260, "A": 20, "W": 3000, "VA": 3000, "var": 1000, "kW": 3, "Hz": 60, "%": 100, "°C": 60,
	"kWh": 10_000, "Wh": 10_000_000, "kvarh": 10_000, "µg/m³": 500, "ppm": 2000,
}

func leastOf(p *mapping.Point) (float64, bool) {
	if strings.HasPrefix(p.Name, "voltage_battery") {
		return 60, true
	}
	least, ok := leasts[p.Unit]
	return least, ok
}

// highest is the largest absolute value that p can have.
func highest(p *mapping.Point) float64 {
	bits := map[mapping.Type]int{mapping.U16: 16, mapping.I16: 15, mapping.U32: 32, mapping.I32: 31, mapping.U64: 64, mapping.I64: 63}[p.Type]
	if bits == 0 {
		return math.Inf(1)
	}
	scale := 1.0
	if p.Scale.Mant != 0 {
		scale = float64(p.Scale.Mant) * math.Pow10(int(p.Scale.Exp))
	}
	offset := float64(p.Offset.Mant) * math.Pow10(int(p.Offset.Exp))
	return math.Abs(math.Pow(2, float64(bits))*scale) + offset
}

// short writes a number with as many digits as a person wants.
func short(x float64) string { return fmt.Sprintf("%.4g", x) }
