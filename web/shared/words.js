/** Words of all editors, in English and Chinese. {name} stands for a value. */

const en = {
    tools: "Tools",
    hand: "Move the view",
    undo: "Undo",
    redo: "Redo",
    zoomIn: "Zoom in",
    zoomOut: "Zoom out",
    fit: "Fit the view",
    clear: "Clear",
    fullscreen: "Full screen",
    help: "Keys",
    width: "Width",
    height: "Height",
    apply: "Apply",
    likeImage: "Match the image",
    wheel: "Wheel",
    pan: "Space+drag",
    panHelp: "moves the view, as the middle button does",
    touch: "Two fingers",
    touchHelp: "zoom and move the view",
    moveKeys: "Arrow keys",
    spaceKey: "Space",
    others: "Other pointers",
    othersHelp: "do nothing while a pointer draws, as keys and wheel do; Esc takes the stroke back",
    layouts: "Layouts",
    layoutsHelp: "without Latin letters, keys count by position; characters typed with Alt or AltGr count as they are",
    files: "Drop, paste",
};

const zh = {
    tools: "工具",
    hand: "移动视图",
    undo: "撤销",
    redo: "重做",
    zoomIn: "放大",
    zoomOut: "缩小",
    fit: "适应窗口",
    clear: "清空",
    fullscreen: "全屏",
    help: "按键",
    width: "宽度",
    height: "高度",
    apply: "应用",
    likeImage: "与底图相同",
    wheel: "滚轮",
    pan: "空格+拖动",
    panHelp: "移动视图，鼠标中键也可以",
    touch: "双指",
    touchHelp: "缩放和移动视图",
    moveKeys: "方向键",
    spaceKey: "空格键",
    others: "其他指针",
    othersHelp: "在一个指针绘制期间，其他指针、按键和滚轮不起作用；Esc 撤回当前笔画",
    layouts: "键盘布局",
    layoutsHelp: "非拉丁字母的布局按键位识别；用 Alt 或 AltGr 输入的字符按字符识别",
    files: "拖放、粘贴",
};

/** The words of an editor and of all editors, by language. */
export const withShared = (own) => ({ en: { ...en, ...own.en }, zh: { ...zh, ...own.zh } });

/** A function that looks words up in the language of a locale such as "zh-TW", else in English. */
export function translator(tables, locale) {
    const table = tables[locale?.split("-")[0]] ?? tables.en;
    return (key, values = {}) => table[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
