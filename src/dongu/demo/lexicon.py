"""The words of the demonstration's grammar: what can be said in each of fourteen subjects.

Entries are parted by ``;``. ``hire=recruit`` is one thing with two names; no two entries of a list mean the
same. An entry may end in ``: a, b``, what it fits.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """One subject; within it, any entry of a field can stand wherever that field stands."""

    name: str
    people: str
    """Persons, who can all do the `deeds` to one another."""
    deeds: str
    bodies: str
    """Organisations, which can all do the `dealings` to one another."""
    dealings: str
    tasks: str
    """What a person may try, agree or refuse to do."""
    goods: str
    """Movable things, which are sent, lent and given."""
    counts: str
    """What a person does to a number of things."""
    levels: str
    """Quantities that rise and fall, each with its unit."""
    events: str
    """Happenings that can come in any order."""
    facts: str
    """What one may know, fear or deny, and why one may act."""
    places: str


# fmt: off
DOMAINS = (
    Domain("farming",
        people="vet=veterinarian; farmhand=farm worker; cowherd=cattleman; shepherd; beekeeper; miller",
        deeds="advise=counsel; praise=commend; hire=employ; phone=telephone; deceive=mislead; help=assist",
        bodies="growers' union; seed company; dairy cooperative; farm bank; irrigation board",
        dealings="warn=caution; fund=finance; copy=imitate; praise=commend; deceive=mislead",
        tasks="shear the sheep; repair the barn roof; harvest the barley; tame the stallion",
        goods="tractor; hay baler; plough; wool press; milk churn; saddle; cart=wagon",
        counts="raise=rear: ewes, lambs, goats, geese; plant=sow: melons, pumpkins; sell=market: pigs, hens",
        levels="the price of wheat: dollars; milk output: percent; the rent of the pasture: pounds",
        events="the rain began; the harvest started; the thresher broke down; the auction opened",
        facts="the well was dry; the wheat was ripe; the hives were empty; fodder was scarce; "
        "the barn was infested with rats; drought was spreading across the valley",
        places="at the county fair; in the upper pasture; near the grain market"),
    Domain("medicine",
        people="doctor=physician; pharmacist=druggist; trainee=apprentice; surgeon; midwife; dentist; paramedic",
        deeds="cure=heal; comfort=console; dismiss=fire; warn=caution; rescue=save; annoy=irritate",
        bodies="teaching hospital; insurance fund; nurses' association; blood bank; health ministry",
        dealings="reimburse=repay; criticise=censure; support=back; mislead=deceive; overtake=surpass",
        tasks="sterilise the instruments; diagnose the fever; leave the ward; test the new vaccine",
        goods="ventilator; microscope; wheelchair; heart monitor; stretcher; drug=medicine",
        counts="treat=tend: burns, fractures, migraines; order=request: inhalers, syringes, bandages",
        levels="the vaccination rate: percent; the average hospital stay: hours; the clinic's debt: euros",
        events="the ambulance arrived; the clinic closed; the fever returned; the shift ended; the bandage was removed",
        facts="the fracture had healed; the vaccine was safe; the ward was full; the results were normal; "
        "the epidemic was slowing; nurses were in short supply",
        places="at the children's clinic; in the emergency ward; outside the laboratory"),
    Domain("football",
        people="coach=trainer; goalkeeper=goalie; newcomer=recruit; striker; referee; defender; team captain",
        deeds="praise=commend; insult=offend; push=shove; injure=hurt; choose=select; calm=soothe",
        bodies="home side; league champion; visiting team; second-division club; student eleven",
        dealings="defeat=beat; challenge=defy; humiliate=disgrace; help=assist; deceive=trick",
        tasks="win the cup final; take the penalty; change the line-up; sign the contract",
        goods="trophy; jersey; team bus; scoreboard; training kit; photo=photograph",
        counts="receive=get: yellow cards, medals, awards; hide=conceal: shirts, posters",
        levels="the club's debt: euros; the ticket price: dollars; the team's share of possession: percent",
        events="the whistle blew; the floodlights failed; the crowd left; the striker was substituted",
        facts="the match was cancelled; the pitch was frozen; the injury was serious; the tickets were forged; "
        "fog covered the stadium; the substitute was unfit",
        places="at the national stadium; in the locker room; near the players' tunnel"),
    Domain("business",
        people="accountant=bookkeeper; boss=manager; buyer=purchaser; auditor; investor; treasurer; cashier",
        deeds="mislead=deceive; hire=recruit; dismiss=fire; reimburse=repay; calm=soothe; amuse=entertain",
        bodies="furniture maker; investment bank; shipping firm; toy retailer; cement producer",
        dealings="acquire=take over; finance=fund; overtake=surpass; copy=imitate; rescue=bail out",
        tasks="sell the shares; publish the accounts; lower the prices; repay the loan",
        goods="cash register; printing press; forklift; packing machine; safe; lorry=truck",
        counts="open=launch: branches, kiosks, showrooms; file=submit: invoices, tax returns",
        levels="quarterly profit: percent; the share price: pounds; the cost of a parcel: cents",
        events="the shares crashed; the chairman resigned; the audit began; the factory reopened",
        facts="the invoice was forged; the warehouse was empty; sales were falling; the patent had expired; "
        "demand was weak; interest rates were climbing",
        places="at the annual meeting; in the boardroom; outside the stock exchange"),
    Domain("science",
        people="chemist; geologist; scientist=researcher; expert=specialist; astronomer; statistician; "
        "tutor=instructor",
        deeds="assist=help; quote=cite; teach=instruct; surprise=astonish; mock=ridicule; greet=welcome",
        bodies="polar institute; space agency; marine laboratory; research council; physics department",
        dealings="fund=finance; rescue=save; criticise=fault; surpass=outdo; imitate=copy",
        tasks="repeat the experiment; publish the findings; calibrate the sensor; retract the article",
        goods="microscope; meteorite; fossil skull; centrifuge; laser; telescope; stone=rock",
        counts="discover=find: comets, craters, beetles; publish=release: papers, maps, reviews",
        levels="the air temperature: degrees; the share of carbon dioxide: percent; the rainfall: millimetres",
        events="the probe landed; the experiment failed; the funding ran out; the crystal melted",
        facts="the isotope was stable; the telescope was faulty; the glacier was shrinking; "
        "the samples were contaminated; the theory was sound; the ice was thin",
        places="at the polar station; in the clean room; aboard the research ship"),
    Domain("law",
        people="lawyer=attorney; policeman=police officer; thief=robber; judge; prosecutor; bailiff; detective",
        deeds="question=interrogate; defend=protect; recognise=identify; arrest=detain; release=free; bribe=pay off",
        bodies="appeals court; supreme court; bar association; police department; prison service",
        dealings="overrule=override; investigate=probe; criticise=rebuke; advise=counsel; obey=heed",
        tasks="drop the charges; seal the file; name the witness; pay the fine; reopen the case",
        goods="envelope; necklace; tape recorder; knife; handbag; letter; revolver=gun",
        counts="question=interrogate: witnesses, suspects; sign=endorse: warrants, permits",
        levels="the fine: dollars; the conviction rate: percent; the sentence: months",
        events="the jury returned; the suspect confessed; the witness fainted; the trial was adjourned",
        facts="the alibi was false; the safe was unlocked; the evidence had vanished; the will was invalid; "
        "protesters were gathering outside; the jury was divided",
        places="at the district courthouse; in the judge's chambers; outside the prison"),
    Domain("local government",
        people="councillor=council member; resident=inhabitant; clerk=official; mayor; city planner; surveyor",
        deeds="criticise=rebuke; appoint=name; support=back; warn=caution; fire=sack; phone=call",
        bodies="town council; housing authority; parks department; school board; water utility",
        dealings="overrule=override; subsidise=fund; mislead=deceive; warn=caution; support=back",
        tasks="approve the zoning plan; cut the budget; demolish the tower; ban fireworks",
        goods="snow plough; street sweeper; statue; voting machine; fire engine; bench=seat",
        counts="repair=fix: bridges, playgrounds, sewers; open=launch: shelters, nurseries, libraries",
        levels="the property tax: dollars; voter turnout: percent; the bus fare: cents",
        events="the mayor resigned; the bridge collapsed; the polls closed; the strike ended",
        facts="the bridge was unsafe; the ballot was void; the pool was closed; the petition was signed; "
        "the playground was vandalised; residents were protesting; the archive was mouldy",
        places="at the town hall; in the council chamber; beside the new bus station"),
    Domain("weather and rescue",
        people="firefighter=fireman; sailor=seaman; climber=mountaineer; lifeguard; forecaster; harbour pilot",
        deeds="rescue=save; warn=caution; guide=lead; frighten=scare; find=locate; soothe=calm",
        bodies="coastal patrol; fire brigade; flood agency; mountain rescue team; weather bureau",
        dealings="alert=warn; equip=outfit; criticise=censure; contact=approach; reinforce=strengthen",
        tasks="cross the river; launch the lifeboat; climb the ridge; evacuate the village",
        goods="dinghy; water pump; lantern; sledge; signal flare; rope; boat=vessel",
        counts="rescue=save: hikers, campers, skiers; fill=stuff: sandbags, buckets",
        levels="the wind speed: knots; the snow depth: centimetres; the risk of flooding: percent",
        events="the storm struck; the river flooded; the siren sounded; the power went out; the fog lifted",
        facts="the dam was leaking; the road was icy; the cyclone was weakening; the radio was dead; "
        "visibility was poor; a blizzard was raging; the evacuation had begun",
        places="at the lighthouse; in the harbour; below the northern ridge"),
    Domain("travel",
        people="tourist=holidaymaker; driver=chauffeur; innkeeper=landlord; tour guide; hitchhiker; porter",
        deeds="overcharge=swindle; greet=welcome; trick=fool; follow=trail; photograph=snap; accompany=escort",
        bodies="cruise line; tourist board; budget airline; hotel chain; ferry operator",
        dealings="promote=advertise; acquire=buy out; compensate=repay; criticise=fault; rescue=save",
        tasks="catch the night ferry; cancel the tour; find the turning; climb the volcano; return the key",
        goods="suitcase; guidebook; camper van; folding map; canoe; tent; rucksack=backpack",
        counts="visit=tour: temples, castles, islands; reserve=book: cabins, bunks, rooms",
        levels="the room rate: euros; hotel occupancy: percent; the cabin fee: pounds",
        events="the ferry sailed; the volcano erupted; the border closed; the luggage arrived",
        facts="the beach was crowded; the visa had expired; the hotel was overbooked; the ferry was late; "
        "the elevator was stuck; the souvenirs were overpriced; the roads were blocked",
        places="at the beach resort; in the departure lounge; along the coastal path"),
    Domain("music and theatre",
        people="violinist=fiddler; actor=performer; viewer=spectator; conductor; composer; playwright; soprano",
        deeds="applaud=cheer; imitate=copy; admire=respect; replace=supplant; embarrass=shame; greet=welcome",
        bodies="chamber orchestra; film studio; opera house; ballet company; art gallery",
        dealings="sponsor=fund; assist=help; outshine=eclipse; hire=engage; mock=ridicule",
        tasks="sing the encore; play the leading role; tune the harp; rewrite the finale",
        goods="piano; cello; costume; film projector; violin case; portrait; picture=painting",
        counts="rehearse=practise: sonatas, ballads, hymns; restore=repair: portraits, murals",
        levels="the top bid: dollars; the running time: minutes; the share of empty seats: percent",
        events="the curtain fell; the lights dimmed; the choir sang; the critic walked out; the drummer sneezed",
        facts="the film was a remake; the concert was sold out; the painting was fake; the hall was cold; "
        "the audience was cheering; the interval was lengthy",
        places="at the open-air theatre; in the recording studio; behind the main stage"),
    Domain("technology",
        people="programmer=coder; beginner=novice; inventor=creator; analyst; hacker; chip designer; tester",
        deeds="hire=recruit; trick=fool; coach=mentor; outwit=outsmart; criticise=fault; calm=soothe",
        bodies="chip maker; software house; phone company; search engine; cloud provider",
        dealings="acquire=buy; deceive=mislead; overtake=surpass; copy=imitate; help=assist",
        tasks="encrypt the disk; restart the server; leak the password; delete the backup; patch the browser",
        goods="server rack; 3D printer; drone; keyboard; robot; prototype; laptop=notebook",
        counts="repair=fix: phones, routers, tablets; improve=enhance: batteries, sensors",
        levels="the download speed: percent; the error rate: percent; the monthly fee: dollars",
        events="the server crashed; the update was released; the password leaked; the battery caught fire",
        facts="the code was stolen; the network was down; the firewall was disabled; the chip was overheating; "
        "the hard disk was encrypted; hackers were attacking; the screen was cracked",
        places="at the developer conference; in the data centre; inside the robotics workshop"),
    Domain("education",
        people="student=pupil; teacher=schoolmaster; caretaker=janitor; librarian; school nurse; gym instructor",
        deeds="encourage=spur on; scold=reprimand; teach=instruct; question=quiz; interrupt=cut off; forgive=pardon",
        bodies="grammar school; technical college; examination board; parents' committee; music academy",
        dealings="outperform=surpass; criticise=fault; fund=finance; imitate=copy; rescue=save",
        tasks="pass the spelling test; answer the question; recite the poem; clean the blackboard",
        goods="globe; chess set; blackboard; telescope; dictionary; satchel; minibus=van",
        counts="mark=grade: essays, worksheets, quizzes; obtain=get: certificates, prizes; "
        "finish=complete: exercises, novels",
        levels="the pass mark: points; the dropout rate: percent; the tuition fee: dollars",
        events="the bell rang; the exam ended; the buses arrived; the choir practised",
        facts="the answer was wrong; the library was closed; the lesson was cancelled; the heating was broken; "
        "the classroom was flooded; the certificate was missing; the corridor was noisy",
        places="at the science fair; in the assembly hall; behind the gymnasium"),
    Domain("food",
        people="cook=chef; diner=patron; shopkeeper=grocer; baker; butcher; sommelier; waiter=server",
        deeds="instruct=teach; praise=commend; hire=employ; insult=offend; deceive=mislead; amuse=entertain",
        bodies="chocolate factory; noodle bar; vegetarian restaurant; family brewery; corner cafe",
        dealings="copy=imitate; undercut=undersell; help=assist; recommend=endorse; acquire=take over",
        tasks="taste the soup; bake the wedding cake; sharpen the knives; change the menu",
        goods="copper kettle; pasta machine; bread oven; meat slicer; coffee grinder; frying pan=skillet",
        counts="bake=make: pies, tarts, muffins; peel=skin: onions, mangoes, turnips; cook=prepare: lobsters, hams",
        levels="the price of butter: cents; the restaurant's score: points; the cocoa content: percent",
        events="the guests arrived; the oven caught fire; the soup boiled over; the bill came; the candles were lit",
        facts="the milk was sour; the sauce was burnt; the oysters were fresh; the terrace was full; "
        "the kitchen was tiny; flour was in short supply",
        places="at the fish market; in the cellar; behind the counter"),
    Domain("publishing",
        people="reporter=journalist; author=writer; bookseller=book dealer; translator; cartoonist; printer",
        deeds="quote=cite; admire=respect; mock=ridicule; deceive=mislead; interview=question; dismiss=sack",
        bodies="evening newspaper; poetry magazine; radio station; paperback publisher; news agency",
        dealings="quote=cite; acquire=buy; outsell=outperform; criticise=censure; sponsor=fund",
        tasks="correct the headline; sign the copies; name the source; shorten the preface",
        goods="typewriter; first edition; photo album; diary; manuscript; pamphlet=leaflet",
        counts="write=pen: limericks, editorials, thrillers; publish=release: fables, essays; "
        "mend=repair: maps, diaries",
        levels="the daily print run: percent; the royalty: percent; the cover price: shillings",
        events="the scandal broke; the editor resigned; the presses stopped; the biography appeared",
        facts="the rumour was untrue; the photograph was doctored; the source was reliable; "
        "the quotation was invented; the headline was misprinted; readers were complaining",
        places="at the press conference; in the newsroom; near the central archive"),
)
# fmt: on
HELD_OUT = ("food", "publishing")
"""The subjects that only the test split speaks of."""

TRANSFERS = "send=ship; lend=loan; give=donate; rent=lease"
TRAVELS = "fly=go by plane; drive=go by car; walk=go on foot; cycle=go by bike; take the train=go by rail"
COUNTING = "count=tally; examine=inspect; draw=sketch"
"""What can be done to any number of any things."""
BELIEFS = "deny=dispute; confirm=verify; announce=declare; fear=worry; hear=learn; prove=demonstrate"
TURNS = "rise=climb; fall=drop"
DEGREES = "higher=greater; lower=smaller"
DELAYS = "right=immediately; long=a long time"
LINKS = "although=even though; because=since"
ATTEMPTS = (
    "managed to=was able to; failed to=did not; agreed to=consented to; refused to=declined to; must=has to; must "
    "not=is not allowed to; tried to=attempted to; forgot to=did not remember to; may=is free to"
)
"""What stands between a person and a task."""

MANNERS = (
    "secretly=covertly; openly=publicly; quickly=rapidly; slowly=gradually; gladly=happily; calmly=serenely; "
    "reluctantly=unwillingly; finally=eventually; wrongly=mistakenly; deliberately=intentionally"
)
TRAITS = (
    "famous=renowned; young=youthful; rich=wealthy; cheerful=happy; sad=unhappy; clever=smart; lazy=idle; "
    "brave=courageous; shy=timid; angry=furious; rude=impolite; polite=courteous; old=elderly; tired=weary; "
    "stubborn=obstinate; careful=cautious; foolish=silly; thin=skinny; drunk=intoxicated; lonely=lonesome; ill=sick"
)
"""Of persons."""
QUALITIES = (
    "big=large; small=little; expensive=costly; cheap=inexpensive; pretty=beautiful; ugly=unsightly; dirty=filthy; "
    "clean=spotless; broken=damaged; new=brand-new; odd=strange; missing=lost; famous=renowned; shiny=gleaming"
)
"""Of things."""
PARTS_OF_DAY = "at dawn=at daybreak; at noon=at midday; at dusk=at nightfall; during the night=overnight"
IRREGULAR = (
    "beat beat beaten; buy bought bought; choose chose chosen; cut cut cut; draw drew drawn; drive "
    "drove driven; fall fell fallen; find found found; fly flew flown; forgive forgave forgiven; give gave given; go "
    "went gone; hear heard heard; hurt hurt hurt; lead led led; learn learnt learnt; lend lent lent; "
    "make made made; mislead misled misled; outsell outsold outsold; outshine outshone "
    "outshone; outwit outwitted outwitted; overtake overtook overtaken; quiz quizzed quizzed; repay repaid repaid; "
    "rise rose risen; sell sold sold; send sent sent; spur spurred spurred; pay paid paid; outdo outdid outdone; "
    "override overrode overridden; snap snapped snapped; sow sowed sown; swindle "
    "swindled swindled; take took taken; teach taught taught; undercut undercut undercut; undersell undersold "
    "undersold; write wrote written; counsel counselled counselled; equip equipped equipped; submit submitted "
    "submitted; pen penned penned; outfit outfitted outfitted; drop dropped dropped; ship shipped shipped; get got "
    "got; hide hid hidden; skin skinned skinned"
)
"""Verbs whose past and participle are not made with -ed."""

FIRST_NAMES = (
    "Marta Tariq Ingrid Kofi Yuki Pablo Leila Owen Priya Anton Chloe Emeka Freya Hugo Jasmine Karim Lucia Milan Nadia "
    "Oscar Petra Quentin Rosa Stefan Tessa Umar Vera Walter Zoltan Beatrice Carlo Dilara Erik"
)
LAST_NAMES = (
    "Haddad Solberg Mensah Tanaka Moreno Bevan Raman Novak Laurent Olsen Keller Whitlock Aziz Romano Horvat Petrov "
    "Delgado Bauer Dupont Silva Meyer Carver Holm Fischer Vargas Barlow Conti Abdi Brandt Castillo"
)
TOWNS = (
    "Oslo Norwegian; Dublin Irish; Zagreb Croatian; Riga Latvian; Madrid Spanish; Paris French; Rome Italian; Athens "
    "Greek; Lisbon Portuguese; Vienna Austrian; Warsaw Polish; Budapest Hungarian; Prague Czech; Berlin German; "
    "Helsinki Finnish; Stockholm Swedish; Copenhagen Danish; Moscow Russian; Ankara Turkish; Lima Peruvian; Nairobi "
    "Kenyan; Hanoi Vietnamese; Cairo Egyptian; Havana Cuban; Tokyo Japanese; Beijing Chinese; Santiago Chilean"
)
"""Each with the adjective of the country that it is the capital of; one travels between the first ones."""
EUROPEAN = 18
MONTHS = "January February March April May June July August September October November December"
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
NUMBERS = (
    "2=two; 3=three; 4=four; 5=five; 6=six; 7=seven; 8=eight; 9=nine; 10=ten; 11=eleven; 12=twelve; 13=thirteen; "
    "14=fourteen; 15=fifteen; 16=sixteen; 17=seventeen; 18=eighteen; 19=nineteen; 20=twenty; 30=thirty; 40=forty; "
    "50=fifty; 60=sixty; 70=seventy; 80=eighty; 90=ninety"
)
